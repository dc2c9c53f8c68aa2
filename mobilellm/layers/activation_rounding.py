"""Rounding of activations to eight bits, with one scale per token that follows from the token."""

from typing import Any

import torch
from jaxtyping import Float, Int8
from torch import Tensor

# The largest code plus a half, as for symmetric weights.
_STEPS = 127.5
_SMALLEST_SCALE = 2.0**-60


def token_codes(
    x: Float[Tensor, "*tokens width"],
) -> tuple[Int8[Tensor, "*tokens width"], Float[Tensor, "*tokens 1"]]:
    """Round each token to the whole numbers from -128 to 127.

    Args:
        x: (..., width).

    Returns:
        Codes (..., width); scales (..., 1) by which they are multiplied, float32 (float64 for x in
        float64): the largest absolute value of the token, divided by 127.5.
    """
    x = x if x.dtype == torch.float64 else x.float()
    scales = (x.abs().amax(-1, keepdim=True) / _STEPS).clamp(min=_SMALLEST_SCALE)
    return (x / scales).round_().clamp_(-128, 127).to(torch.int8), scales


def round_tokens(x: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens width"]:
    """The rounded tokens, of the type of `x`. The gradient passes as if nothing were rounded."""
    codes, scales = token_codes(x.detach())
    return straight_through(x, (codes.to(scales.dtype) * scales).to(x.dtype))


def straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """Return `rounded`, whose gradient is passed on to `x` unchanged.

    Source: Bengio, Léonard and Courville 2013, arXiv:1308.3432.
    """
    return _StraightThrough.apply(x, rounded)  # pyright: ignore[reportReturnType]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient, None
