"""Rotary position embedding in Hugging Face's convention: entries i and i + half form a pair.

Source: Su et al. 2021, RoFormer, arXiv:2104.09864, section 3.4.2.
Differs: there entries 2i and 2i + 1 form a pair; the weights differ by a permutation.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

Rotary = tuple[Float[Tensor, "*positions 1 head_dim"], Float[Tensor, "*positions 1 head_dim"]]


def make_rotary(positions: Int[Tensor, "*positions"], head_dim: int, theta: float) -> Rotary:
    """Cosine and signed sine of the angles of all positions, each (..., seq, 1, head_dim), float32.

    The sine is negated in the first half, so that the rotation is x × cos + swap_halves(x) × sin.
    Both are computed in every forward pass: a stored table would be rounded by
    `model.to(bfloat16)`, and would have no values after construction on the meta device.

    Args:
        positions: token positions (..., seq).
        head_dim: width of one head, even.
        theta: base of the frequencies.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    frequencies = theta ** (-exponents / head_dim)
    angles = (positions.to(torch.float32).unsqueeze(-1) * frequencies).unsqueeze(-2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def apply_rotary(
    x: Float[Tensor, "batch seq heads head_dim"], rotary: Rotary
) -> Float[Tensor, "batch seq heads head_dim"]:
    """Rotate heads (batch, seq, heads, head_dim) by their positions; shape and type are kept."""
    cos, sin = (table.to(x.dtype) for table in rotary)
    if torch.compiler.is_compiling():
        return x * cos + _swap_halves(x) * sin
    return _Rotation.apply(x, cos, sin)  # pyright: ignore[reportReturnType]


def _swap_halves(x: Float[Tensor, "*batch head_dim"]) -> Float[Tensor, "*batch head_dim"]:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((second, first), dim=-1)


class _Rotation(torch.autograd.Function):
    """Saves only the tables for the backward pass, which is the inverse rotation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _swap_halves(x).mul_(sin).addcmul_(x, cos)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        return _swap_halves(gradient).mul_(-sin).addcmul_(gradient, cos), None, None
