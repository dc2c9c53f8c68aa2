"""NF4: sixteen levels at quantiles of a normal distribution, and scales of eight bits.

Source: Dettmers et al. 2023, QLoRA, arXiv:2305.14314, section 3 and appendix E.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor

# The largest quantile: the mean of 1 - 1/30 and 1 - 1/32.
_LARGEST_PROBABILITY = 1 - (1 / 30 + 1 / 32) / 2
SCALES_PER_BLOCK = 256
# Rounding to eight bits may make a small scale zero or negative.
_SMALLEST_SCALE = 2.0**-40


def normal_levels(device: torch.device | str | None = None) -> Float[Tensor, "16"]:
    """The levels in ascending order: seven below zero, zero, and eight above it, from -1 to 1.

    They are quantiles of the standard normal distribution, divided by the largest one, so that
    about equally many normally distributed weights are rounded to each of them.
    """

    def quantiles(number: int) -> Tensor:
        ends = torch.linspace(_LARGEST_PROBABILITY, 0.5, number + 1, dtype=torch.float64)
        return torch.special.ndtri(ends[:-1])

    zero = torch.zeros(1, dtype=torch.float64)
    levels = torch.cat((-quantiles(7), zero, quantiles(8).flip(0)))
    return (levels / levels.max()).to(device=device, dtype=torch.float32)


class PackedScales(NamedTuple):
    """Scales in eight bits: mean + code × constant, with one constant per block of 256 scales."""

    codes: Int8[Tensor, "rows groups"]
    """(rows, groups), from -127 to 127."""
    constants: Float[Tensor, " blocks"]
    """float32 (⌈rows · groups / 256⌉,). Blocks run along the rows."""
    mean: Float[Tensor, ""]
    """float32, the mean of all scales. Scales are positive; their distances from the mean need
    fewer bits."""

    def unpack(self) -> Float[Tensor, "rows groups"]:
        """The scales in float32, above zero."""
        constants = self.constants.repeat_interleave(SCALES_PER_BLOCK)[: self.codes.numel()]
        scales = torch.addcmul(self.mean, self.codes.float(), constants.view(self.codes.shape))
        return scales.clamp(min=_SMALLEST_SCALE)


def pack_scales(scales: Float[Tensor, "rows groups"]) -> PackedScales:
    """Round scales to eight bits.

    QLoRA uses floating-point numbers of eight bits; these are equidistant.

    Args:
        scales: (rows, groups), float32.
    """
    mean = scales.mean()
    padding = -scales.numel() % SCALES_PER_BLOCK
    blocks = F.pad((scales - mean).flatten(), (0, padding)).view(-1, SCALES_PER_BLOCK)
    constants = blocks.abs().amax(1) / 127
    # If all scales of a block are equal to the mean, so that the constant is 0, the codes are 0.
    codes = (blocks / constants.clamp(min=_SMALLEST_SCALE).unsqueeze(1)).round()
    codes = codes.clamp(-127, 127).to(torch.int8).flatten()[: scales.numel()]
    return PackedScales(codes.view(scales.shape), constants, mean)
