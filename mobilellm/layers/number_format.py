"""Number formats of quantized matrices, and the tensors in which they are stored.

| tensor | type and size | contents |
|---|---|---|
| `codes` | (rows, columns) int8, or uint8 with zero points | weights of 8 bits |
| `codes` | (rows, columns / 2) uint8 | weights of 4 bits: two columns per byte (`nibbles`) |
| `scales` | (rows, groups) float16 | distance of the values of each group |
| `zeros` | (rows, groups) uint8 | zero points, unless the values are symmetric |
| `scale_codes`, `scale_constants`, `scale_mean` | int8, float32, float32 | NF4 (`normal_float`) |
"""

import math
from dataclasses import dataclass, fields
from typing import Any

import torch

from mobilellm.layers.normal_float import SCALES_PER_BLOCK
from mobilellm.layers.shape import Size

GROUPS = (8, 16, 32, 64, 128, 256)
LEVELS = ("uniform", "normal")


@dataclass(frozen=True, kw_only=True)
class NumberFormat:
    """How the weights of a matrix are stored in 4 or 8 bits.

    A weight is scale × (code - zero point). A scale and a zero point belong to a group: consecutive
    inputs of one output.

    Raises:
        ValueError: a value is not supported, or values contradict each other.
    """

    bits: int
    """Bits per code, 4 or 8."""
    group: int | None = None
    """Number of inputs per group, one of `GROUPS`; None: all inputs."""
    symmetric: bool = True
    """Whether the values of a group lie around zero; otherwise it has a zero point."""
    levels: str = "uniform"
    """`uniform`: the values of a group are equidistant; `normal`: they are the sixteen of NF4, and
    the scales have 8 bits."""
    activation_bits: int | None = None
    """8: the layer also rounds each token of its input to 8 bits; None: it does not."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.bits not in (4, 8) or isinstance(self.bits, bool):
            raise ValueError(f"bits={self.bits!r} is not supported; use 4 or 8")
        if self.group is not None and self.group not in GROUPS:
            sizes = ", ".join(map(str, GROUPS))
            raise ValueError(
                f"group={self.group!r} is not supported; use {sizes}, or null for all inputs of an "
                "output"
            )
        if self.levels not in LEVELS:
            raise ValueError(f"levels={self.levels!r} is not known; use {' or '.join(LEVELS)}")
        if self.activation_bits not in (None, 8):
            raise ValueError(
                f"activation_bits={self.activation_bits!r} is not supported; use 8, or null to "
                "leave the inputs as they are"
            )
        if self.levels == "normal" and (self.bits, self.group is None, self.symmetric) != (
            4, False, True,
        ):  # fmt: skip
            raise ValueError(
                f"levels=normal (NF4) contradicts bits={self.bits}, group={self.group}, "
                f"symmetric={self.symmetric}; use bits=4, group=64 and symmetric=true"
            )

    @property
    def is_signed(self) -> bool:
        """Whether the codes are numbers around zero."""
        return self.symmetric and self.levels == "uniform"

    @property
    def lowest_code(self) -> int:
        """The smallest code."""
        return -(2 ** (self.bits - 1)) if self.is_signed else 0

    @property
    def highest_code(self) -> int:
        """The largest code."""
        return self.lowest_code + 2**self.bits - 1

    @property
    def multiplies_integers(self) -> bool:
        """Whether the product with an input is a product of integers, times scales."""
        return (self.bits, self.group, self.symmetric, self.activation_bits) == (8, None, True, 8)

    def num_groups(self, columns: int) -> int:
        """Number of groups of one output with so many inputs."""
        return 1 if self.group is None else columns // self.group

    def check(self, size: Size) -> None:
        """Check that groups divide the inputs of a matrix, and that 4-bit codes fill whole bytes.

        Raises:
            ValueError: they do not. The message starts with a verb.
        """
        rows, columns = size
        if self.group is not None and columns % self.group:
            possible = [str(group) for group in GROUPS if columns % group == 0]
            raise ValueError(
                f"has group={self.group}, which does not divide the {columns} inputs of a "
                f"{rows}x{columns} weight; use {' or '.join([*possible, 'null'])}"
            )
        if self.bits == 4 and columns % 2:
            raise ValueError(
                f"has bits=4, two weights per byte, but the {rows}x{columns} weight has an odd "
                "number of inputs; use bits=8"
            )

    def layout(self, size: Size) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Sizes and types of the tensors that store a matrix (rows, columns), by name."""
        rows, columns = size
        groups = rows, self.num_groups(columns)
        codes = (rows, columns * self.bits // 8)
        if self.levels == "normal":
            blocks = math.ceil(math.prod(groups) / SCALES_PER_BLOCK)
            return {
                "codes": (codes, torch.uint8),
                "scale_codes": (groups, torch.int8),
                "scale_constants": ((blocks,), torch.float32),
                "scale_mean": ((), torch.float32),
            }
        kind = torch.int8 if self.bits == 8 and self.symmetric else torch.uint8
        stored = {"codes": (codes, kind), "scales": (groups, torch.float16)}
        return stored if self.symmetric else stored | {"zeros": (groups, torch.uint8)}

    def packed_bytes(self, size: Size) -> int:
        """Bytes of all tensors that store a matrix (rows, columns)."""
        layout = self.layout(size).values()
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in layout)

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their default, as plain data for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        defaults = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in values.items() if value != defaults[name]}

    def short_text(self) -> str:
        """A form such as `int4 g32`, or `int8 a8` if activations are rounded to 8 bits too."""
        name = "NF4" if self.levels == "normal" else f"int{self.bits}"
        name += "" if self.symmetric else " asym"
        name += "" if self.group is None else f" g{self.group}"
        return name if self.activation_bits is None else f"{name} a{self.activation_bits}"

    def __str__(self) -> str:
        """A form such as `int4 in groups of 32, asymmetric, inputs in int8`."""
        name = "NF4" if self.levels == "normal" else f"int{self.bits}"
        parts = [
            f"{name} per output" if self.group is None else f"{name} in groups of {self.group}"
        ]
        parts += [] if self.symmetric else ["asymmetric"]
        parts += [] if self.activation_bits is None else [f"inputs in int{self.activation_bits}"]
        return ", ".join(parts)
