"""Rotary position embedding in the convention of Hugging Face: entries i and i + half form a pair.

In the paper, entries 2i and 2i + 1 form a pair. The two conventions are equivalent up to a
permutation of the rows of the query and key projections.

Source: Su et al. 2021, RoFormer, arXiv:2104.09864, section 3.4.2.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mobilellm.models.config import ModelConfig
from mobilellm.models.rotary_scaling import RotaryScaling

Rotary = tuple[Float[Tensor, "*positions 1 head_dim"], Float[Tensor, "*positions 1 head_dim"]]


def make_rotary(
    positions: Int[Tensor, "*positions"],
    head_dim: int,
    theta: float,
    scaling: RotaryScaling | None = None,
) -> Rotary:
    """Compute cosine and signed sine of the rotation angles.

    The sine is negated in the first half, so that the rotation is x × cos + swap_halves(x) × sin.
    Both are computed in every forward pass. A buffer would be rounded by `model.to(bfloat16)`, and
    would have no values after creation on the meta device.

    Args:
        positions: token positions (..., seq).
        head_dim: width of one head, an even number.
        theta: base of the frequencies.
        scaling: how the frequencies differ from those of `theta`; None: not at all.

    Returns:
        Cosine and signed sine, each float32 (..., seq, 1, head_dim).
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    frequencies = theta ** (-exponents / head_dim)
    if scaling is not None:
        frequencies = _scaled(frequencies, scaling)
    angles = (positions.to(torch.float32).unsqueeze(-1) * frequencies).unsqueeze(-2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotary_of(config: ModelConfig, positions: Int[Tensor, "*positions"]) -> Rotary:
    """Compute `make_rotary` for a model."""
    head_dim, scaling = config.head_dim, config.rope_scaling
    return make_rotary(positions, head_dim, config.rope_theta, scaling)  # pyright: ignore[reportArgumentType]


def _scaled(frequencies: Float[Tensor, " pairs"], scaling: RotaryScaling) -> Tensor:
    """The frequencies (head_dim / 2,) with those divided that the scaling changes."""
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    original = scaling.original_max_position_embeddings
    if low is None or high is None or original is None:  # linear
        return frequencies / scaling.factor
    turns = original * frequencies / (2 * math.pi)  # within the context of pretraining
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * (kept + (1 - kept) / scaling.factor)


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
