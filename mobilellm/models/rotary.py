"""Rotary position embedding, in Hugging Face's convention: entry i turns with entry i + half.

Source: Su et al. 2021, RoFormer, arXiv:2104.09864, section 3.4.2.
Differs: there neighbours 2i and 2i + 1 turn together; the weights differ by a permutation.
"""

from typing import Any

import torch
from torch import Tensor

Rotary = tuple[Tensor, Tensor]


def make_rotary(positions: Tensor, head_dim: int, theta: float) -> Rotary:
    """Cosine and signed sine of every position's angles, each (..., seq, 1, head_dim), float32.

    The sine is negative in the first half, so that x × cos + halves swapped × sin is the rotation.
    They are made anew for each forward pass: a stored table would follow `model.to(bfloat16)`
    and lose the positions, and would be missing after a start on the meta device.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    frequencies = theta ** (-exponents / head_dim)
    angles = (positions.to(torch.float32).unsqueeze(-1) * frequencies).unsqueeze(-2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def apply_rotary(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn the heads (batch, seq, heads, head_dim) to their positions; shape and type stay."""
    cos, sin = (table.to(x.dtype) for table in rotary)
    if torch.compiler.is_compiling():
        return x * cos + _swap_halves(x) * sin
    return _Rotation.apply(x, cos, sin)  # pyright: ignore[reportReturnType]


def _swap_halves(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((second, first), dim=-1)


class _Rotation(torch.autograd.Function):
    """Three passes each way and nothing kept but the tables; the way back is the inverse turn."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _swap_halves(x).mul_(sin).addcmul_(x, cos)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        return _swap_halves(gradient).mul_(-sin).addcmul_(gradient, cos), None, None
