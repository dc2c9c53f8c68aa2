"""The architectures of GGUF files that hold models of this family, for reading and writing.

What an architecture can hold is what llama.cpp computes for it.
"""

from dataclasses import dataclass

from mobilellm.formats.huggingface.architectures import NotRepresentable
from mobilellm.models.config import ModelConfig
from mobilellm.models.rotary_scaling import RotaryScaling


@dataclass(frozen=True)
class GgufArchitecture:
    """What a value of `general.architecture` implies."""

    name: str
    """Also the first part of the names of the architecture's fields."""
    qk_norm: str = "none"
    """As in `ModelConfig`."""
    rotates_pairs: bool = True
    """Whether the rotary embedding rotates neighbouring entries (see `rotary_layout`)."""
    block_sizes_differ: bool = False
    """Whether every layer may have its own numbers of heads and its own feed-forward width."""
    has_rope_factors: bool = True
    """Whether the rotary frequencies may have a divisor each, as in Llama 3.1."""


LLAMA = GgufArchitecture("llama")
DECI = GgufArchitecture("deci", block_sizes_differ=True)
"""Llama with layers of different sizes, of Nemotron models that an architecture search found."""
QWEN3 = GgufArchitecture("qwen3", qk_norm="rms", rotates_pairs=False, has_rope_factors=False)
ARCHITECTURES = {one.name: one for one in (LLAMA, DECI, QWEN3)}


def architecture_for(config: ModelConfig) -> GgufArchitecture:
    """The architecture in which a model is written.

    Raises:
        NotRepresentable: no architecture can hold it; the message names the field and what to do.
    """
    if config.feed_forward == "relu":
        raise NotRepresentable(
            "no GGUF architecture has feed_forward='relu'; only 'swiglu' can be exported to GGUF: "
            "use --format huggingface or executorch"
        )
    if config.share_kv == "first" and config.is_shared:
        raise NotRepresentable(
            "no GGUF architecture has share_kv='first'; only 'own' can be exported to GGUF: use "
            "--format executorch, or --format huggingface with --custom-code"
        )
    differ = len(set(config.block_shapes)) > 1
    if config.qk_norm == "none":
        return DECI if differ else LLAMA
    if differ:
        raise NotRepresentable(
            f"no GGUF architecture has blocks of different sizes with qk_norm={config.qk_norm!r}; "
            "a model with only one of the two can be exported to GGUF: use --format executorch, or "
            "--format huggingface with --custom-code"
        )
    if isinstance(config.rope_scaling, RotaryScaling) and config.rope_scaling.rope_type == "llama3":
        raise NotRepresentable(
            f"no GGUF architecture has rope_scaling of the type llama3 with "
            f"qk_norm={config.qk_norm!r}; a model with only one of the two can be exported to "
            "GGUF: use --format huggingface or executorch"
        )
    return QWEN3
