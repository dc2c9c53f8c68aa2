"""The MobileLLM family of models. Importing `ModelConfig` does not import torch."""

from typing import TYPE_CHECKING, Any

from mobilellm.models.config import ModelConfig
from mobilellm.public_names import import_public_name

if TYPE_CHECKING:
    from mobilellm.models.mobilellm import MobileLLM, ModelOutput

__all__ = ["MobileLLM", "ModelConfig", "ModelOutput"]


def __getattr__(name: str) -> Any:
    """Import torch only if a model class is used: `--help` and parameter counts stay fast."""
    return import_public_name(__name__, name, dict.fromkeys(__all__, "mobilellm.models.mobilellm"))
