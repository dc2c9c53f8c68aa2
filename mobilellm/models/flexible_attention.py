"""Attention with a `BlockMask`, by torch's FlexAttention."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention


def flexible_attention(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch kv_heads keys head_dim"],
    value: Float[Tensor, "batch kv_heads keys head_dim"],
    mask: BlockMask,
    *,
    scale: float | None,
) -> Float[Tensor, "batch heads queries head_dim"]:
    """softmax(scale × q kᵀ) v over the keys that the mask allows.

    Args:
        query: (batch, heads, queries, head_dim).
        key: (batch, kv_heads, keys, head_dim); each serves a group of query heads.
        value: likewise.
        mask: which keys a query attends to, with causality.
        scale: factor of the scores; None: 1 / sqrt(head_dim).

    Source: Dong et al. 2024, arXiv:2412.05496.
    """
    # Under autocast, a norm of queries and keys leaves them in another type than the values.
    query, key = query.to(value.dtype), key.to(value.dtype)
    attend = _compiled() if query.is_cuda and not torch.compiler.is_compiling() else flex_attention
    grouped = query.shape[1] != key.shape[1]
    return attend(query, key, value, block_mask=mask, scale=scale, enable_gqa=grouped)


@cache
def _compiled() -> Callable[..., Any]:
    """FlexAttention as one kernel; uncompiled, it would compute the matrix of all scores."""
    return torch.compile(flex_attention, dynamic=False)
