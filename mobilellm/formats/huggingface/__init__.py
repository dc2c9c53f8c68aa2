"""Llama-type Hugging Face folders, read and written without `transformers`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilellm.formats.huggingface.weights import export_huggingface, import_huggingface

__all__ = ["export_huggingface", "import_huggingface"]


def __getattr__(name: str) -> Any:
    """Import torch only to read or write weights: `explain.py` reads a config.json alone."""
    if name in __all__:
        return getattr(import_module("mobilellm.formats.huggingface.weights"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
