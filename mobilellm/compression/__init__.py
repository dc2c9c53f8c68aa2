"""Compression of a MobileLLM: recipes that calibrate, plan and apply."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mobilellm.public_names import public_class

if TYPE_CHECKING:
    from mobilellm.compression.factorization import Factorization as Factorization
    from mobilellm.compression.masking import Pruning as Pruning
    from mobilellm.compression.structured import StructuredPruning as StructuredPruning

# Recipes whose files are not named after them; each is imported when it is first used.
_MODULES = {"Pruning": "masking", "StructuredPruning": "structured"}


def __getattr__(name: str) -> Any:
    """A recipe by the name of its class: `Factorization` in `factorization.py`."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return public_class(__name__, name)
