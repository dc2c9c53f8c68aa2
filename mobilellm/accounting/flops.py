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
    """3 x forward, because the backward pass needs twice the operations of the forward pass.
    Recomputation for activation checkpointing is not counted."""


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
    return Flops(matmul=matmul, attention=attention, forward=forward, training=3 * forward)
