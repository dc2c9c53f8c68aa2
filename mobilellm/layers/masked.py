"""Masked matrices: dense ones of which some entries are zero and stay zero in training."""

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

# Names of the tensors on disk.
VALUES, BITS = "kept_values", "mask_bits"


@dataclass(frozen=True, kw_only=True)
class MaskedShape(LayerShape):
    """A dense weight of which only `nonzero` entries are not masked to zero.

    Raises:
        ValueError: a negative number of entries.
    """

    kind = "masked"

    nonzero: int
    """Entries that are kept; their values may be zero too."""

    def __post_init__(self) -> None:
        """Check."""
        if isinstance(self.nonzero, bool) or not isinstance(self.nonzero, int) or self.nonzero < 0:
            raise ValueError(f"nonzero={self.nonzero!r} must be a whole number of at least 0")

    def check(self, size: Size) -> None:
        """Refuse to keep more entries than there are.

        Raises:
            ValueError: both numbers.
        """
        entries = size[0] * size[1]
        if self.nonzero > entries:
            raise ValueError(f"keeps nonzero={self.nonzero} of the weight's {entries} entries")

    def cost(self, size: Size) -> LayerCost:
        """As a dense matrix; masked entries are stored in memory and multiplied too."""
        entries = size[0] * size[1]
        return replace(DENSE.cost(size), masked=entries - self.nonzero, formed_values=entries)

    def empty(self, size: Size, *, bias: bool = False) -> "MaskedLinear":
        """A layer that is not filled; nothing is masked."""
        return MaskedLinear.empty(size, bias=bias)

    def empty_embedding(self, size: Size) -> "MaskedEmbedding":
        """A token embedding that is not filled; nothing is masked."""
        return MaskedEmbedding.empty(size)  # pyright: ignore[reportReturnType]

    @classmethod
    def describe_tensors(cls, tensors: Mapping[str, Tensor]) -> str | None:
        """`masked` if there is a mask, packed or not."""
        return "masked" if "mask" in tensors or BITS in tensors else None

    def pack(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The kept values and one bit per entry instead of `weight` and `mask`.

        With half of the weights in float32 that is 17 bits per entry instead of 40.

        Args:
            tensors: `weight` (out, in), `mask` bool (out, in), True = kept, and others.

        Returns:
            `kept_values` (kept,), row by row; `mask_bits` (⌈out·in / 8⌉,) uint8, the first entry
            in the highest bit of the first byte; and the others.
        """
        mask = tensors["mask"]
        bits = np.packbits(mask.cpu().numpy().reshape(-1))
        others = {key: value for key, value in tensors.items() if key not in ("weight", "mask")}
        return others | {VALUES: tensors["weight"][mask], BITS: torch.from_numpy(bits)}

    def unpack(self, tensors: Mapping[str, Tensor], size: Size) -> dict[str, Tensor]:
        """The inverse of `pack`; tensors that are not packed stay as they are.

        Raises:
            ValueError: another number of bits or values than the matrix has.
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
        """`40.0% of the weights kept, the others masked`."""
        kept = sum(shape.nonzero for shape in shapes)
        share = kept / sum(rows * columns for rows, columns in sizes)
        return f"{share:.1%} of the weights kept, the others masked"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `parse_layer_shape` is the inverse."""
        return {"nonzero": self.nonzero}

    def __str__(self) -> str:
        """`5,504 kept`."""
        return f"{self.nonzero:,} kept"


class MaskedLinear(nn.Module):
    """A linear layer of which masked weights are zero and stay zero in training."""

    mask: Tensor

    def __init__(
        self, weight: Float[Tensor, "out in"], mask: Tensor, bias: Tensor | None = None
    ) -> None:
        """Take over the weight.

        Args:
            weight: (out, in); what is masked is set to zero.
            mask: bool (out, in), True = kept.
            bias: (out,) or None.

        Raises:
            ValueError: a mask of another shape or type, a bias of another size.
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
        """A layer of the given size, not filled, nothing masked."""
        mask = torch.ones(size, dtype=torch.bool)
        return cls(torch.empty(size), mask, torch.empty(size[0]) if bias else None)

    @property
    def shape(self) -> MaskedShape:
        """How many weights are kept."""
        return MaskedShape(nonzero=int(self.mask.sum()))  # pyright: ignore[reportCallIssue]

    def reset_buffers_(self) -> None:
        """Nothing masked."""
        self.mask.fill_(True)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """(..., in) -> (..., out)."""
        return F.linear(x, self.materialize(), self.bias)

    def materialize(self) -> Float[Tensor, "out in"]:
        """The weight (out, in) with its zeros."""
        return self.weight * self.mask

    def extra_repr(self) -> str:
        """Sizes, for `print(model)`."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class MaskedEmbedding(MaskedLinear):
    """A token table (vocab, hidden) with masked entries, used from both ends."""

    def forward(self, input_ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch hidden"]:
        """Rows of the table: token ids (...) -> (..., hidden)."""
        return F.embedding(input_ids, self.materialize())

    def unembed(self, hidden: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch vocab"]:
        """Product with every row: (..., hidden) -> logits (..., vocab)."""
        return super().forward(hidden)


def _unpacked_mask(bits: Tensor, size: Size, kept: int | None) -> Bool[Tensor, "out in"]:
    entries = math.prod(size)
    if bits.dtype != torch.uint8 or bits.numel() != -(-entries // 8):
        raise ValueError(
            f"has {bits.numel()} bytes of mask_bits; {size[0]}x{size[1]} entries need "
            f"{-(-entries // 8)}: use the config.json the weights were saved with"
        )
    mask = torch.from_numpy(np.unpackbits(bits.numpy(), count=entries)).bool().view(size)
    if kept != (wanted := int(mask.sum())):
        raise ValueError(
            f"has {kept or 'no'} kept_values, and its mask_bits keep {wanted}; the file is "
            "damaged: save the model again"
        )
    return mask
