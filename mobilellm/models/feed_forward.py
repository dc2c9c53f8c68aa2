"""The position-wise feed-forward layer: SwiGLU, or the paper's ReLU baseline."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """down(silu(gate(x)) × up(x)), without biases.

    Source: Shazeer 2020, GLU variants improve transformer, arXiv:2002.05202.
    """

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        """Create the three projections."""
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        """(..., hidden) -> the same shape."""
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class ReLUFeedForward(nn.Module):
    """down(relu(up(x))), without biases: the baseline of the MobileLLM paper (section 2.1)."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        """Create the two projections."""
        super().__init__()
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        """(..., hidden) -> the same shape."""
        return self.down_proj(F.relu(self.up_proj(x)))


def swiglu(
    gate: Float[Tensor, "*batch inner"], up: Float[Tensor, "*batch inner"]
) -> Float[Tensor, "*batch inner"]:
    """silu(gate) × up, elementwise; both tensors have the same shape."""
    if torch.compiler.is_compiling():
        return F.silu(gate) * up
    return _SwiGLU.apply(gate, up)  # pyright: ignore[reportReturnType]


class _SwiGLU(torch.autograd.Function):
    """SwiGLU that saves only its inputs; the backward pass computes silu(gate) again."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        gate, up = ctx.saved_tensors
        gate_gradient = torch.ops.aten.silu_backward(gradient * up, gate)
        return gate_gradient, F.silu(gate).mul_(gradient)
