"""The MobileLLM family of models. Importing `ModelConfig` does not import torch."""

from typing import TYPE_CHECKING, Any

from mobilellm.models.config import ModelConfig

if TYPE_CHECKING:
    from mobilellm.models.mobilellm import MobileLLM, ModelOutput

__all__ = ["MobileLLM", "ModelConfig", "ModelOutput"]


def __getattr__(name: str) -> Any:
    """Import torch only if a model class is used: `--help` and parameter counts stay fast."""
    if name in ("MobileLLM", "ModelOutput"):
        from mobilellm.models import mobilellm

        return getattr(mobilellm, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
