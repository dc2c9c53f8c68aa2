"""Floating-point operations per token, computed from the configuration.

A multiply-add is counted as two operations. The count includes the matrix products (all projections
of every executed layer, and the output head) and the attention scores and weighted sums. A masked
matrix is counted like a dense one, because its zeros are multiplied too. Norms, rotary embedding,
activation functions, softmax and the embedding look-up are not counted; together they are below
one percent at practical widths.
"""

from dataclasses import dataclass

from mobilellm.accounting.parameters import (
    applications,
    block_costs,
    head_cost,
    head_dim,
    head_name,
    is_adapted,
    matrix_costs,
)
from mobilellm.models.config import ModelConfig, check_positive


@dataclass(frozen=True)
class Flops:
    """Floating-point operations per token, as the mean over a sequence."""

    matmul: int
    """2 x the weights of every matrix per application, including the output head. Factorised
    matrices are multiplied factor by factor, in the cheaper order."""
    attention: int
    """Scores and weighted sums over the keys that the causal mask allows."""
    forward: int
    """matmul + attention."""
    training: int
    """3 x forward, because the backward pass needs twice the operations of the forward pass. With
    adapters, frozen matrices need no gradients of weights: forward, the gradients of all
    activations, and those of the adapters. The few that end below the first adapter are counted
    too. Recomputation for activation checkpointing is not counted, nor the lengths of rows that
    DoRA computes once per forward pass."""


def flops_per_token(config: ModelConfig, sequence_length: int) -> Flops:
    """Operations per token in a sequence of `sequence_length` tokens.

    Attention is causal: the token at position s (counted from 1) attends to s keys, on average to
    (sequence_length + 1) / 2, and each key needs 4 x heads x head_dim operations per layer. With
    share_kv `first` only the first application of a block computes keys and values.

    Raises:
        ValueError: sequence_length is below 1.

    Source: Chowdhery et al. 2022, PaLM, arXiv:2204.02311, appendix B (which ignores causality).
    """
    check_positive("sequence_length", sequence_length)
    matmul = head_cost(config).flops
    uses = applications(config)
    matmul += sum(uses[name] * cost.flops for _, name, cost in block_costs(config))
    shapes = config.block_shapes
    heads = sum(shapes[block].num_attention_heads for block in config.layer_order)
    attention = 2 * heads * head_dim(config) * (sequence_length + 1)
    forward = matmul + attention
    gradients = _weight_gradients(config) if is_adapted(config) else matmul
    return Flops(
        matmul=matmul,
        attention=attention,
        forward=forward,
        training=2 * forward + attention + gradients,
    )


def _weight_gradients(config: ModelConfig) -> int:
    """Operations for the gradients of the factors of adapters."""
    uses, costs = applications(config), matrix_costs(config)
    # Looking up rows of the embedding is not counted.
    uses = {n: number for n, number in uses.items() if n.startswith("blocks.")}
    uses[head_name(config)] = 1
    return sum(
        2 * uses.get(name, 0) * costs[name].matrix_parameters
        for name, shape in config.layer_shapes.items()
        if shape.trains_alone
    )
