"""The weights of a model for formats that know neither compressed matrices nor multipliers."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from mobilellm.layers import materialize
from mobilellm.models import MobileLLM, ModelConfig


@torch.no_grad()
def dense_weights(model: MobileLLM) -> dict[str, Tensor]:
    """The weights of a model of the same function with dense matrices and without multipliers.

    Exact up to the rounding of one product per weight, and of the sums and products that a
    compressed matrix stands for. A norm of queries and keys without a weight (`qk_norm="l2"`) gets
    a weight: of ones for keys, and of `attention_multiplier` for queries.

    Args:
        model: it is not changed.

    Returns:
        Tensors by their names in a `MobileLLM` with dense matrices, each stored block once; those
        that need no change share their memory with the model.
    """
    config = model.config
    compressed = config.layer_shapes
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if config.matrix_of(name) not in compressed
    }
    for matrix in compressed:
        state[f"{matrix}.weight"] = dense_matrix(model, matrix)
    if config.qk_norm == "l2":
        ones = model.norm.weight.new_ones(config.head_dim)  # pyright: ignore[reportCallIssue, reportArgumentType]
        for index in range(config.num_blocks):
            for part in ("q_norm", "k_norm"):
                state[f"blocks.{index}.attention.{part}.weight"] = ones
    return _folded_multipliers(state, config)


def dense_matrix(model: MobileLLM, name: str) -> Tensor:
    """The dense form of a compressed matrix, in the data type of the model's norms."""
    weight = materialize(model.get_submodule(name)).detach()
    return weight.to(model.norm.weight.dtype)  # pyright: ignore[reportArgumentType, reportCallIssue]


def of_layers(state: Iterable[str], config: ModelConfig) -> Iterator[tuple[int, str, str]]:
    """What is stored for each layer if every layer has weights of its own, as in other formats.

    Args:
        state: names, such as those of `dense_weights`.
        config: of the model.

    Yields:
        Index of the layer; name of a weight in its block, such as `attention.q_proj.weight`; name
        of the weight in `state`.
    """
    for layer, index in enumerate(config.layer_order):
        prefix = f"blocks.{index}."
        for name in state:
            if name.startswith(prefix):
                yield layer, name.removeprefix(prefix), name


def _folded_multipliers(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The weights of a model of the same function whose multipliers are 1.

    The residual multiplier goes into the projections that write to the residual stream. The
    attention multiplier goes into the query projection, or into the weights of the query norm where
    there is one. The output multiplier goes into the head, or into the final norm where the head is
    the embedding.
    """
    query = ".q_proj.weight" if config.qk_norm == "none" else ".q_norm.weight"
    factors = {
        ".o_proj.weight": config.residual_multiplier,
        ".down_proj.weight": config.residual_multiplier,
        query: config.attention_multiplier,
        "norm.weight" if config.tie_word_embeddings else "head.weight": config.output_multiplier,
    }
    return {name: _times(tensor, _factor(name, factors)) for name, tensor in state.items()}


def _factor(name: str, factors: Mapping[str, float]) -> float:
    """The factor of a weight: that of its whole name, or of the end of it after a dot."""
    ends = (f for end, f in factors.items() if end.startswith(".") and name.endswith(end))
    return factors.get(name, next(ends, 1.0))


def _times(tensor: Tensor, factor: float) -> Tensor:
    return tensor if factor == 1 else tensor * factor
