"""Rotary position embedding in the convention of Hugging Face: entries i and i + half form a pair.

In the paper, entries 2i and 2i + 1 form a pair. The two conventions are equivalent up to a
permutation of the rows of the query and key projections.

Source: Su et al. 2021, RoFormer, arXiv:2104.09864, section 3.4.2.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

Rotary = tuple[Float[Tensor, "*positions 1 head_dim"], Float[Tensor, "*positions 1 head_dim"]]


def make_rotary(positions: Int[Tensor, "*positions"], head_dim: int, theta: float) -> Rotary:
    """Compute cosine and signed sine of the rotation angles.

    The sine is negated in the first half, so that the rotation is x × cos + swap_halves(x) × sin.
    Both are computed in every forward pass. A buffer would be rounded by `model.to(bfloat16)`, and
    would have no values after creation on the meta device.

    Args:
        positions: token positions (..., seq).
        head_dim: width of one head, an even number.
        theta: base of the frequencies.

    Returns:
        Cosine and signed sine, each float32 (..., seq, 1, head_dim).
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    frequencies = theta ** (-exponents / head_dim)
    angles = (positions.to(torch.float32).unsqueeze(-1) * frequencies).unsqueeze(-2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def apply_rotary(
    x: Float[Tensor, "batch seq heads head_dim"], rotary: Rotary
) -> Float[Tensor, "batch seq heads head_dim"]:
    """Rotate the heads (batch, seq, heads, head_dim) according to their positions."""
    cos, sin = (table.to(x.dtype) for table in rotary)
    if torch.compiler.is_compiling():
        return x * cos + _swap_halves(x) * sin
    return _Rotation.apply(x, cos, sin)  # pyright: ignore[reportReturnType]


def _swap_halves(x: Float[Tensor, "*batch head_dim"]) -> Float[Tensor, "*batch head_dim"]:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((second, first), dim=-1)


class _Rotation(torch.autograd.Function):
    """Rotation that saves only cosine and sine; the backward pass is the inverse rotation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _swap_halves(x).mul_(sin).addcmul_(x, cos)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        return _swap_halves(gradient).mul_(-sin).addcmul_(gradient, cos), None, None
