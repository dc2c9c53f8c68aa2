"""The product of a matrix and an input of which some values are set to zero, with little memory."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def dropped_product(
    x: Float[Tensor, "*batch in"], weight: Float[Tensor, "out in"], rate: float
) -> Float[Tensor, "*batch out"]:
    """dropout(x) Wᵀ: (..., in) -> (..., out).

    The backward pass drops the values again, so that it needs x itself, which other matrices often
    keep as well, and one byte per value, instead of the dropped input and its factors.

    Args:
        x: the input.
        weight: (out, in), trained or not.
        rate: share of the values that is set to zero; the others are divided by 1 - rate.
    """
    if rate == 0.0 or torch.compiler.is_compiling():
        return F.linear(F.dropout(x, rate), weight)
    result: Any = _DroppedProduct.apply(x, weight, rate)
    return result


class _DroppedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rate: float) -> Tensor:
        is_kept = torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - rate)
        ctx.save_for_backward(x, weight, is_kept)
        ctx.rate = rate
        return F.linear(_dropped(x, is_kept, rate), weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, is_kept = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = _dropped(gradient @ weight.to(gradient.dtype), is_kept, ctx.rate).to(x.dtype)
        if ctx.needs_input_grad[1]:
            dropped = _dropped(x.to(gradient.dtype), is_kept, ctx.rate).flatten(0, -2)
            of_weight = (gradient.flatten(0, -2).T @ dropped).to(weight.dtype)
        return of_x, of_weight, None


def _dropped(
    x: Float[Tensor, "*batch in"], is_kept: Bool[Tensor, "*batch in"], rate: float
) -> Float[Tensor, "*batch in"]:
    return (x * is_kept).div_(1 - rate)
