"""The position-wise feed-forward layer: SwiGLU, or the paper's ReLU baseline."""

import torch.nn.functional as F
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """down(silu(gate(x)) × up(x)), without biases.

    Source: Shazeer 2020, GLU variants improve transformer, arXiv:2002.05202.
    """

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        """Build the three projections."""
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, hidden) -> the same shape."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class ReLUFeedForward(nn.Module):
    """down(relu(up(x))), without biases: the baseline the paper's first step replaces."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        """Build the two projections."""
        super().__init__()
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, hidden) -> the same shape."""
        return self.down_proj(F.relu(self.up_proj(x)))
