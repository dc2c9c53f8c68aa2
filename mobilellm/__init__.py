"""Architecture search and training for deep-thin, sub-billion-parameter language models.

The names below are all that a notebook needs::

    import mobilellm

    config = mobilellm.config_for_budget(budget=1e6, num_blocks=12, match="body", vocab_size=2048)
    model = mobilellm.MobileLLM(config)

    loaded = mobilellm.load("outputs/default/my_run")
    print(loaded.generate("Once upon a time", max_new_tokens=50))

    comparison = mobilellm.compare(["outputs/depth_vs_width"])
    comparison.to_pandas()
    print(comparison.to_latex())

Importing the package loads none of its dependencies; each name loads what it needs when it is used.
"""

from typing import TYPE_CHECKING, Any

from mobilellm.public_names import import_public_name
from mobilellm.version import __version__

if TYPE_CHECKING:
    from mobilellm.inference.loaded_model import LoadedModel, load
    from mobilellm.models.config import ModelConfig
    from mobilellm.models.mobilellm import MobileLLM
    from mobilellm.report.compare import compare
    from mobilellm.report.comparison import Comparison
    from mobilellm.search.budget import config_for_budget

__all__ = [
    "Comparison",
    "LoadedModel",
    "MobileLLM",
    "ModelConfig",
    "__version__",
    "compare",
    "config_for_budget",
    "load",
]

_MODULES = {
    "Comparison": "mobilellm.report.comparison",
    "LoadedModel": "mobilellm.inference.loaded_model",
    "MobileLLM": "mobilellm.models.mobilellm",
    "ModelConfig": "mobilellm.models.config",
    "compare": "mobilellm.report.compare",
    "config_for_budget": "mobilellm.search.budget",
    "load": "mobilellm.inference.loaded_model",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    return import_public_name(__name__, name, _MODULES)


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted({*globals(), *__all__})
