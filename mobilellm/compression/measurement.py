"""Milliseconds and memory of a compressed structure beside the dense one and its low-rank twin."""

from typing import Any

from mobilellm.compression.twin import twin_config
from mobilellm.evaluation.latency import compare_latency
from mobilellm.models import MobileLLM, ModelConfig


def measure_structures(
    dense: ModelConfig,
    compressed: ModelConfig,
    *,
    prefill_tokens: int = 256,
    decode_tokens: int = 16,
) -> list[dict[str, Any]]:
    """Time prefill and decoding of models with these structures, in turns.

    Time and memory do not depend on the weights, so random ones do.

    Args:
        dense: before this compression.
        compressed: after it.
        prefill_tokens: tokens of the prompt, less where the context is shorter.
        decode_tokens: tokens written after it.

    Returns:
        Rows as `compare_latency` gives them; with the twin where a matrix is factorised other than
        by low rank.
    """
    configs = {name_as_given(dense): dense, "compressed": compressed}
    twin = twin_config(compressed)
    if twin is not None:
        configs["low-rank twin"] = twin
    room = min(config.max_position_embeddings for config in configs.values()) - decode_tokens
    models = {name: MobileLLM(config).eval() for name, config in configs.items()}
    return compare_latency(
        models, prefill_tokens=max(1, min(prefill_tokens, room)), decode_tokens=decode_tokens
    )


def name_as_given(config: ModelConfig) -> str:
    """`dense`; `given, masked` (or `factorised`, or both) for what was compressed before."""
    kinds = {shape.kind for shape in config.layer_shapes.values()}
    return f"given, {' and '.join(sorted(kinds))}" if kinds else "dense"
