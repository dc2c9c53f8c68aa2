"""Latency and memory of a compressed model, compared with dense and low-rank models."""

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
    """Measure prefill and decoding of models with these configurations, in alternation.

    The models have random weights, because time and memory do not depend on them.

    Args:
        dense: the configuration before this compression.
        compressed: the configuration after it.
        prefill_tokens: tokens of the prompt; fewer if the context is shorter.
        decode_tokens: number of tokens to generate.

    Returns:
        The rows of `compare_latency`. If a matrix is factorised other than by low rank, they
        include a low-rank model with at most as many parameters per matrix.
    """
    configs = {label_of_original(dense): dense, "compressed": compressed}
    twin = twin_config(compressed)
    if twin is not None:
        configs["low-rank twin"] = twin
    room = min(config.max_position_embeddings for config in configs.values()) - decode_tokens
    models = {name: MobileLLM(config).eval() for name, config in configs.items()}
    return compare_latency(
        models, prefill_tokens=max(1, min(prefill_tokens, room)), decode_tokens=decode_tokens
    )


def label_of_original(config: ModelConfig) -> str:
    """Label of the model before compression: `dense`, or e.g. `given, masked` if it has masks."""
    kinds = {shape.kind for shape in config.layer_shapes.values()}
    return f"given, {' and '.join(sorted(kinds))}" if kinds else "dense"
