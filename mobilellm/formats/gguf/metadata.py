"""Writes a `ModelConfig` as fields of a GGUF file."""

from typing import Any

import numpy as np

from mobilellm.formats.gguf.architectures import GgufArchitecture
from mobilellm.formats.gguf.config import LLAMA3_FIELD, llama3_divisors
from mobilellm.models.config import ModelConfig, one_or_each
from mobilellm.models.rotary_scaling import RotaryScaling


def write_config(writer: Any, config: ModelConfig, architecture: GgufArchitecture) -> None:
    """Add the fields of the architecture, with shared blocks unrolled.

    Args:
        writer: a `gguf.GGUFWriter` for the architecture.
        config: of the model.
        architecture: of `architecture_for`.
    """
    shapes = [config.block_shapes[index] for index in config.layer_order]
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    for add, sizes in (
        (writer.add_feed_forward_length, [shape.intermediate_size for shape in shapes]),
        (writer.add_head_count, [shape.num_attention_heads for shape in shapes]),
        (writer.add_head_count_kv, [shape.num_key_value_heads for shape in shapes]),
    ):
        # One value where an architecture knows no others; the list of `deci` is always complete.
        add(sizes if architecture.block_sizes_differ else one_or_each(sizes))
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    if isinstance(config.rope_scaling, RotaryScaling):
        _write_scaling(writer, config.rope_scaling)


def rope_factors(config: ModelConfig) -> np.ndarray | None:
    """The divisors of the rotary frequencies (head_dim / 2,), float32; None if there are none."""
    scaling = config.rope_scaling
    if not isinstance(scaling, RotaryScaling) or scaling.rope_type != "llama3":
        return None
    return llama3_divisors(scaling, config.head_dim, config.rope_theta).astype(np.float32)  # pyright: ignore[reportArgumentType]


def _write_scaling(writer: Any, scaling: RotaryScaling) -> None:
    import gguf

    if scaling.rope_type == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling.factor)
        return
    for name, value in scaling.to_dict().items():
        if name == "original_max_position_embeddings":
            writer.add_uint32(LLAMA3_FIELD.format(name), value)
        elif name != "rope_type":
            writer.add_float32(LLAMA3_FIELD.format(name), value)
