"""Masked matrices: dense matrices in which some entries are zero and stay zero in training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mobilellm.layers.bias import check_bias
from mobilellm.layers.dense import DENSE
from mobilellm.layers.shape import LayerCost, LayerShape, Size

# Names of the packed tensors on disk.
VALUES, BITS = "kept_values", "mask_bits"


@dataclass(frozen=True, kw_only=True)
class MaskedShape(LayerShape):
    """A dense weight in which all but `nonzero` entries are masked to zero.

    Raises:
        ValueError: the number of entries is negative.
    """

    kind = "masked"

    nonzero: int
    """Number of entries that are not masked. Their values may happen to be zero."""

    def __post_init__(self) -> None:
        """Check the number."""
        if isinstance(self.nonzero, bool) or not isinstance(self.nonzero, int) or self.nonzero < 0:
            raise ValueError(f"nonzero={self.nonzero!r} must be a whole number of at least 0")

    def check(self, size: Size) -> None:
        """Check that the matrix has at least `nonzero` entries.

        Raises:
            ValueError: the matrix has fewer entries.
        """
        entries = size[0] * size[1]
        if self.nonzero > entries:
            raise ValueError(
                f"keeps nonzero={self.nonzero} entries, but the weight has {entries}; give at most "
                f"{entries}"
            )

    def cost(self, size: Size) -> LayerCost:
        """The cost of a dense matrix, since masked entries are also stored and multiplied."""
        entries = size[0] * size[1]
        return replace(DENSE.cost(size), masked=entries - self.nonzero, materialized_values=entries)

    def empty(self, size: Size, *, bias: bool = False) -> "MaskedLinear":
        """A `MaskedLinear` in which nothing is masked."""
        return MaskedLinear.empty(size, bias=bias)

    def empty_embedding(self, size: Size) -> "MaskedEmbedding":
        """A `MaskedEmbedding` in which nothing is masked."""
        return MaskedEmbedding.empty(size)  # pyright: ignore[reportReturnType]

    @classmethod
    def describe_tensors(cls, tensors: Mapping[str, Tensor]) -> str | None:
        """`masked` if the tensors include a mask, packed or not."""
        return "masked" if "mask" in tensors or BITS in tensors else None

    def file_bits(self, size: Size, bits: int) -> int:
        """The kept values, and one bit per entry in whole bytes."""
        return bits * self.nonzero + 8 * -(-size[0] * size[1] // 8)

    def pack(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Replace `weight` and `mask` by the kept values and one bit per entry.

        If half of the float32 weights are kept, this takes 17 bits per entry instead of 40.

        Args:
            tensors: `weight` (out, in), `mask` bool (out, in), True for kept entries, and others.

        Returns:
            `kept_values` (kept,) in row-major order; `mask_bits` (⌈out·in / 8⌉,) uint8, with the
            first entry in the most significant bit of the first byte; and the other tensors.
        """
        mask = tensors["mask"]
        bits = np.packbits(mask.cpu().numpy().reshape(-1))
        others = {key: value for key, value in tensors.items() if key not in ("weight", "mask")}
        return others | {VALUES: tensors["weight"][mask], BITS: torch.from_numpy(bits)}

    def unpack(self, tensors: Mapping[str, Tensor], size: Size) -> dict[str, Tensor]:
        """The inverse of `pack`; tensors that are not packed are returned unchanged.

        Raises:
            ValueError: the number of bits or of values does not match the matrix.
        """
        if BITS not in tensors:
            if VALUES in tensors:
                raise ValueError("has kept_values but no mask_bits; save the model again")
            return dict(tensors)
        values = tensors.get(VALUES)
        mask = _unpacked_mask(tensors[BITS], size, None if values is None else values.numel())
        weight = torch.zeros(size, dtype=values.dtype)  # pyright: ignore[reportOptionalMemberAccess]
        weight[mask] = values  # pyright: ignore[reportArgumentType]
        others = {key: value for key, value in tensors.items() if key not in (VALUES, BITS)}
        return others | {"weight": weight, "mask": mask}

    @classmethod
    def summarize(cls, shapes: Sequence[Self], sizes: Sequence[Size]) -> str:
        """A summary such as `40.0% of the weights kept, the others masked`."""
        kept = sum(shape.nonzero for shape in shapes)
        share = kept / sum(rows * columns for rows, columns in sizes)
        return f"{share:.1%} of the weights kept, the others masked"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `parse_layer_shape` is the inverse."""
        return {"nonzero": self.nonzero}

    def __str__(self) -> str:
        """The number of kept entries, e.g. `5,504 kept`."""
        return f"{self.nonzero:,} kept"


class MaskedLinear(nn.Module):
    """A linear layer whose masked weights are zero and stay zero in training."""

    mask: Tensor

    def __init__(
        self, weight: Float[Tensor, "out in"], mask: Tensor, bias: Tensor | None = None
    ) -> None:
        """Set masked weights to zero and store weight, mask and bias.

        Args:
            weight: (out, in).
            mask: bool (out, in), True for kept entries.
            bias: (out,) or None.

        Raises:
            ValueError: the mask has another shape or type, or the bias another size.
        """
        super().__init__()
        if mask.shape != weight.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"mask is {mask.dtype} {tuple(mask.shape)}; give bool {tuple(weight.shape)}"
            )
        check_bias(bias, weight.shape[0])
        self.weight = nn.Parameter(weight if weight.is_meta else weight.masked_fill(~mask, 0.0))
        self.bias = None if bias is None else nn.Parameter(bias)
        self.register_buffer("mask", mask)
        self.out_features, self.in_features = weight.shape

    @classmethod
    def empty(cls, size: Size, *, bias: bool = False) -> "MaskedLinear":
        """A layer with uninitialised weights in which nothing is masked."""
        mask = torch.ones(size, dtype=torch.bool)
        return cls(torch.empty(size), mask, torch.empty(size[0]) if bias else None)

    @property
    def shape(self) -> MaskedShape:
        """The number of kept weights."""
        return MaskedShape(nonzero=int(self.mask.sum()))  # pyright: ignore[reportCallIssue]

    def reset_buffers_(self) -> None:
        """Unmask all weights."""
        self.mask.fill_(True)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """Apply the layer: (..., in) -> (..., out)."""
        return F.linear(x, self.materialize(), self.bias)

    def materialize(self) -> Float[Tensor, "out in"]:
        """The dense weight (out, in), with zeros at masked entries."""
        return self.weight * self.mask

    def extra_repr(self) -> str:
        """Sizes, for `print(model)`."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class MaskedEmbedding(MaskedLinear):
    """A token embedding (vocab, hidden) with masked entries; also usable as a tied head."""

    def forward(self, input_ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch hidden"]:
        """Look up rows of the table: token ids (...) -> (..., hidden)."""
        return F.embedding(input_ids, self.materialize())

    def unembed(self, hidden: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch vocab"]:
        """Multiply by every row of the table: (..., hidden) -> logits (..., vocab)."""
        return super().forward(hidden)


def _unpacked_mask(bits: Tensor, size: Size, kept: int | None) -> Bool[Tensor, "out in"]:
    entries = math.prod(size)
    if bits.dtype != torch.uint8 or bits.numel() != -(-entries // 8):
        raise ValueError(
            f"has {bits.numel()} bytes of mask_bits, but {size[0]}x{size[1]} entries need "
            f"{-(-entries // 8)}; use the config.json that was saved with the weights"
        )
    mask = torch.from_numpy(np.unpackbits(bits.numpy(), count=entries)).bool().view(size)
    if kept != (wanted := int(mask.sum())):
        raise ValueError(
            f"has {kept or 'no'} kept_values, and its mask_bits keep {wanted}; the file is "
            "damaged: save the model again"
        )
    return mask
