"""Adapters: a model is fine-tuned by narrow matrices beside its own, which stay as they are."""

from typing import TYPE_CHECKING, Any

from mobilellm.public_names import import_public_name

if TYPE_CHECKING:
    from mobilellm.adapters.adapter import Adapter
    from mobilellm.adapters.importing import import_adapter
    from mobilellm.adapters.merging import merge_adapters

__all__ = ["Adapter", "import_adapter", "merge_adapters"]

_MODULES = {
    "Adapter": "mobilellm.adapters.adapter",
    "import_adapter": "mobilellm.adapters.importing",
    "merge_adapters": "mobilellm.adapters.merging",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    return import_public_name(__name__, name, _MODULES)
