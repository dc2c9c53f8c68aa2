"""Root-mean-square normalisation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) × weight, over the last dimension.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467.
    """

    def __init__(self, size: int, eps: float) -> None:
        """Start with a weight of ones, `size` long."""
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., size); the shape stays."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        """Size and eps, for `print(model)`."""
        return f"{self.weight.shape[0]}, eps={self.eps}"


class WeightlessRMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) over the last dimension, nothing learned: MobileLLM-R1's QK-norm."""

    def __init__(self, eps: float) -> None:
        """Keep eps; there is no weight."""
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., size); the shape stays."""
        return F.rms_norm(x, x.shape[-1:], None, self.eps)
