"""Rounding of weights to the values of a number format."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from mobilellm.layers.normal_float import PackedScales, normal_levels, pack_scales
from mobilellm.layers.number_format import NumberFormat

# The smallest and the largest number above zero that float16 represents.
_SCALES = (2.0**-24, 65504.0)


@dataclass(frozen=True)
class Grid:
    """The values that the weights of each group may have.

    They are scale × (code - zero point), or scale × level[code] for normal levels.
    """

    number_format: NumberFormat
    scales: Float[Tensor, "rows groups"]
    """(rows, groups), float32, as they are after storing."""
    zeros: Float[Tensor, "rows groups"] | None = None
    """Zero points (rows, groups), whole numbers; None if the values are symmetric."""
    packed_scales: PackedScales | None = None
    """The stored form of the scales, for normal levels."""

    @classmethod
    def fit(cls, weight: Float[Tensor, "rows columns"], number_format: NumberFormat) -> Self:
        """The smallest values that include the weights of each group.

        Symmetric codes are -2ᵇ⁻¹ … 2ᵇ⁻¹ - 1 for b bits. The scale is the largest absolute weight
        divided by 2ᵇ⁻¹ - ½, so that no error exceeds half a scale, up to the rounding of the scale
        to float16. Asymmetric values reach from the smallest weight, or zero, to the largest one.
        Normal levels reach to the largest absolute weight.

        Args:
            weight: (rows, columns), finite, in float32 or float64.
            number_format: its group divides the columns.
        """
        parts = weight.unflatten(1, (number_format.num_groups(weight.shape[1]), -1))
        if number_format.levels == "normal":
            packed = pack_scales(parts.abs().amax(-1).float())
            return cls(number_format, packed.unpack(), packed_scales=packed)
        highest = number_format.highest_code
        if number_format.symmetric:
            return cls(number_format, _representable(parts.abs().amax(-1) / (highest + 0.5)))
        low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
        scales = _representable((high - low) / highest)
        return cls(number_format, scales, (-low / scales).round().clamp(0, highest).float())

    def codes_of(self, weight: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """The codes of the nearest values: whole numbers (rows, columns) in the type of `weight`.

        Args:
            weight: (rows, columns) in float32 or float64, with equally many columns per group.
        """
        ratios = weight.unflatten(1, (self.scales.shape[1], -1)) / self._per_group(self.scales)
        if self.number_format.levels == "normal":
            levels = normal_levels(weight.device)
            middles = ((levels[1:] + levels[:-1]) / 2).to(weight.dtype)
            return torch.bucketize(ratios, middles).to(weight.dtype).flatten(1)
        codes = ratios.round_()
        if self.zeros is not None:
            codes += self._per_group(self.zeros)
        lowest, highest = self.number_format.lowest_code, self.number_format.highest_code
        return codes.clamp_(lowest, highest).flatten(1)

    def values_of(self, codes: Tensor) -> Float[Tensor, "rows columns"]:
        """The weights (rows, columns) of codes; float64 for codes in float64, otherwise float32."""
        parts = codes.unflatten(1, (self.scales.shape[1], -1))
        kind = torch.float64 if codes.dtype == torch.float64 else torch.float32
        if self.number_format.levels == "normal":
            table = normal_levels(codes.device).to(kind)
            # Indices of 32 bits and a product in place need a third of the memory.
            levels = table.index_select(0, parts.flatten().int()).view(parts.shape)
            return levels.mul_(self._per_group(self.scales)).flatten(1)
        levels = parts.to(kind)
        if self.zeros is not None:
            levels = levels - self._per_group(self.zeros)
        return (levels * self._per_group(self.scales)).flatten(1)

    def of_group(self, index: int) -> "Grid":
        """The grid of one group, for columns that all belong to it."""
        here = slice(index, index + 1)
        zeros = None if self.zeros is None else self.zeros[:, here]
        return Grid(self.number_format, self.scales[:, here], zeros)

    @classmethod
    def join(cls, grids: Sequence["Grid"], number_format: NumberFormat) -> "Grid":
        """The grid of groups side by side, given the grids of each; for uniform levels."""
        zeros = [grid.zeros for grid in grids if grid.zeros is not None]
        return cls(
            number_format,
            torch.cat([grid.scales for grid in grids], dim=1),
            torch.cat(zeros, dim=1) if zeros else None,
        )

    @staticmethod
    def _per_group(values: Tensor) -> Tensor:
        """(rows, groups, 1), to be combined with (rows, groups, columns per group)."""
        return values.unsqueeze(-1)


def nearest_values(
    weight: Float[Tensor, "rows columns"], number_format: NumberFormat
) -> Float[Tensor, "rows columns"]:
    """Each weight rounded to the nearest value of the grid that fits the weights."""
    grid = Grid.fit(weight, number_format)
    return grid.values_of(grid.codes_of(weight))


def _representable(scales: Tensor) -> Tensor:
    """Scales rounded to positive numbers that float16 represents, in float32."""
    return scales.clamp(*_SCALES).half().float()
