"""How many floating-point operations a token costs, counted from the configuration alone.

A multiplication and its addition are two operations. Counted are the matrix products (every
projection of every layer that runs, and the output head) and the attention scores and sums; a
masked matrix counts as a dense one, since its zeros are multiplied too. Not counted are norms,
rotary embedding, activations, softmax and the embedding's look-up, which together are below one
percent at any width worth training.
"""

from dataclasses import dataclass

from mobilellm.accounting.parameters import (
    applications,
    block_costs,
    check_count,
    head_cost,
    head_dim,
)
from mobilellm.models.config import ModelConfig


@dataclass(frozen=True)
class Flops:
    """Floating-point operations per token, the mean over a sequence."""

    matmul: int
    """2 x the weights of every matrix, as often as it is applied, the output head included;
    factorised matrices as they are applied, factor by factor in the cheaper order."""
    attention: int
    """Scores and weighted sums, over the keys that causality allows."""
    forward: int
    """matmul + attention."""
    training: int
    """3 x forward: the backward pass costs twice the forward. Recomputation, where activations are
    checkpointed, is not counted: it is work of the method, not of the model."""


def flops_per_token(config: ModelConfig, sequence_length: int) -> Flops:
    """Operations per token in a sequence of `sequence_length` tokens.

    Attention is causal: the token at position s (from 1) sees s keys, in the mean
    (sequence_length + 1) / 2, and each key costs 4 x heads x head_dim operations per layer. With
    share_kv `first` the repeats of a block compute no keys and values.

    Raises:
        ValueError: sequence_length below 1.

    Source: Chowdhery et al. 2022, PaLM, arXiv:2204.02311, appendix B (there without causality).
    """
    check_count("sequence_length", sequence_length)
    matmul = head_cost(config).flops
    uses = applications(config)
    matmul += sum(uses[name] * cost.flops for _, name, cost in block_costs(config))
    shapes = config.block_shapes
    heads = sum(shapes[block].num_attention_heads for block in config.layer_order)
    attention = 2 * heads * head_dim(config) * (sequence_length + 1)
    forward = matmul + attention
    return Flops(matmul=matmul, attention=attention, forward=forward, training=3 * forward)
