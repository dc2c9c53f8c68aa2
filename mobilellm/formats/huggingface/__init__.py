"""Reads and writes Llama-type Hugging Face folders, without `transformers`."""

from typing import TYPE_CHECKING, Any

from mobilellm.public_names import import_public_name

if TYPE_CHECKING:
    from mobilellm.formats.huggingface.weights import export_huggingface, import_huggingface

__all__ = ["export_huggingface", "import_huggingface"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `explain` reads a config.json without torch."""
    return import_public_name(
        __name__, name, dict.fromkeys(__all__, "mobilellm.formats.huggingface.weights")
    )
