"""Root-mean-square normalisation."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) × weight, over the last dimension.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467.
    """

    def __init__(self, size: int, eps: float) -> None:
        """Create the weight (size,), initialised with ones."""
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
        """Normalise the last dimension of (..., size)."""
        if x.dtype == torch.float32 and x.is_cpu and not torch.compiler.is_compiling():
            return _CpuRMSNorm.apply(x, self.weight, self.eps)  # pyright: ignore[reportReturnType]
        # Torch has no fast kernel for mixed types, which occur under autocast with QK-norm.
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)

    def extra_repr(self) -> str:
        """Size and eps, for `print(model)`."""
        return f"{self.weight.shape[0]}, eps={self.eps}"


def as_operand(x: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
    """Cast to the type of matrix products, so that under autocast all that read x share one cast.

    Autocast would cast x, and keep the result for the backward pass, once for each product.
    """
    device = x.device.type
    if x.dtype == torch.float32 and device != "meta" and torch.is_autocast_enabled(device):
        return x.to(torch.get_autocast_dtype(device))
    return x


class WeightlessRMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) over the last dimension, the QK-norm of MobileLLM-R1."""

    def __init__(self, eps: float) -> None:
        """Store eps."""
        super().__init__()
        self.eps = eps

    def forward(self, x: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
        """Normalise the last dimension of (..., size)."""
        return F.rms_norm(x, x.shape[-1:], None, self.eps)


class _CpuRMSNorm(torch.autograd.Function):
    """RMSNorm with a fused backward pass, two to four times as fast on a CPU as torch's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        size = x.shape[-1]
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = scale.square_().div_(size).add_(eps).rsqrt_()
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        normed, scale, weight = ctx.saved_tensors
        by_entry = gradient * normed
        along = (by_entry @ weight).div_(-weight.shape[0]).unsqueeze(-1)
        x_gradient = (gradient * weight).addcmul_(normed, along).mul_(scale)
        return x_gradient, by_entry.flatten(0, -2).sum(0), None
