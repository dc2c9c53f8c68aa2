"""Rotary position embedding, in Hugging Face's convention: entry i turns with entry i + half.

Source: Su et al. 2021, RoFormer, arXiv:2104.09864, section 3.4.2.
Differs: there neighbours 2i and 2i + 1 turn together; the weights differ by a permutation.
"""

import torch
from torch import Tensor

Rotary = tuple[Tensor, Tensor]


def make_rotary(positions: Tensor, head_dim: int, theta: float) -> Rotary:
    """Cosine and sine of every position's angles, each (..., seq, 1, head_dim / 2), in float32.

    They are made anew for each forward pass: a stored table would follow `model.to(bfloat16)`
    and lose the positions, and would be missing after a start on the meta device.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    frequencies = theta ** (-exponents / head_dim)
    angles = positions.to(torch.float32).unsqueeze(-1) * frequencies
    angles = angles.unsqueeze(-2)
    return angles.cos(), angles.sin()


def apply_rotary(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn the heads (batch, seq, heads, head_dim) to their positions; shape and type stay."""
    cos, sin = (table.to(x.dtype) for table in rotary)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
