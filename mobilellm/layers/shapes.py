"""What a compressed layer looks like, as plain data: shapes and counts, no weights, no torch.

A factorised weight is a sum of Kronecker products, W ≈ Σ leftᵢ ⊗ rightᵢ. Terms of one shape form
a part; parts may differ. Low rank is the part (rows × 1) ⊗ (1 × columns) with as many terms as the
rank, so that a sum of parts holds low rank, Kronecker products and both together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PartShape:
    """`num_terms` Kronecker products left ⊗ right of one shape.

    Raises:
        ValueError: a size or a number of terms below 1.
    """

    left: Shape
    """Rows and columns (m1, n1) of each left factor."""
    right: Shape
    """Rows and columns (m2, n2) of each right factor."""
    num_terms: int = 1

    def __post_init__(self) -> None:
        """Make tuples of lists and check."""
        for name in ("left", "right"):
            sizes = getattr(self, name)
            sizes = tuple(sizes) if isinstance(sizes, Sequence) else (sizes,)
            object.__setattr__(self, name, sizes)
            if len(sizes) != 2 or any(not _is_count(size) for size in sizes):
                raise ValueError(f"{name}={sizes} must be two whole numbers of at least 1")
        if not _is_count(self.num_terms):
            raise ValueError(f"num_terms={self.num_terms!r} must be a whole number of at least 1")

    @property
    def shape(self) -> Shape:
        """Rows and columns of the product."""
        return self.left[0] * self.right[0], self.left[1] * self.right[1]

    @property
    def parameters(self) -> int:
        """Entries of all factors."""
        (m1, n1), (m2, n2) = self.left, self.right
        return self.num_terms * (m1 * n1 + m2 * n2)

    @property
    def max_terms(self) -> int:
        """Terms with which every matrix is represented exactly."""
        (m1, n1), (m2, n2) = self.left, self.right
        return min(m1 * n1, m2 * n2)

    @property
    def is_low_rank(self) -> bool:
        """Whether the terms are outer products of a column and a row."""
        return self.left[1] == 1 and self.right[0] == 1

    @property
    def right_first(self) -> bool:
        """Whether applying the right factors first takes no more operations."""
        (m1, n1), (m2, n2) = self.left, self.right
        return n1 * n2 * m2 + n1 * m2 * m1 <= m1 * n1 * n2 + m1 * n2 * m2

    @property
    def flops(self) -> int:
        """Floating-point operations for one input vector, in the cheaper order."""
        (m1, n1), (m2, n2) = self.left, self.right
        if self.right_first:
            return 2 * self.num_terms * (n1 * n2 * m2 + n1 * m2 * m1)
        return 2 * self.num_terms * (m1 * n1 * n2 + m1 * n2 * m2)

    @property
    def inner_size(self) -> int:
        """Values between the two products, for one input vector."""
        (m1, n1), (m2, n2) = self.left, self.right
        return self.num_terms * (n1 * m2 if self.right_first else m1 * n2)


@dataclass(frozen=True, kw_only=True)
class FactorizedShape:
    """A sum of parts of one overall shape, with or without stored permutations.

    Raises:
        ValueError: no part, or parts of different overall shapes.
    """

    parts: tuple[PartShape, ...]
    row_permutation: bool = False
    """Whether the outputs are reordered by stored indices."""
    column_permutation: bool = False
    """Whether the inputs are."""

    def __post_init__(self) -> None:
        """Make parts of dictionaries and check."""
        parts = tuple(
            part if isinstance(part, PartShape) else PartShape(**part) for part in self.parts
        )
        object.__setattr__(self, "parts", parts)
        if not parts:
            raise ValueError("a factorised layer needs at least one part; give parts")
        if len({part.shape for part in parts}) > 1:
            shapes = ", ".join(f"{m}x{n}" for m, n in (part.shape for part in parts))
            raise ValueError(f"the parts have the shapes {shapes}; give parts of one shape")

    @property
    def shape(self) -> Shape:
        """Rows and columns of the whole."""
        return self.parts[0].shape

    @property
    def parameters(self) -> int:
        """Entries of all factors; permutations are indices, not parameters."""
        return sum(part.parameters for part in self.parts)

    @property
    def indices(self) -> int:
        """Entries of the stored permutations, 32 bits each."""
        rows, columns = self.shape
        return self.row_permutation * rows + self.column_permutation * columns

    @property
    def flops(self) -> int:
        """Floating-point operations for one input vector."""
        return sum(part.flops for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `parse_layer_shape` is the inverse."""
        parts = [
            {"left": list(p.left), "right": list(p.right), "num_terms": p.num_terms}
            for p in self.parts
        ]
        values: dict[str, Any] = {"parts": parts}
        for name in ("row_permutation", "column_permutation"):
            if getattr(self, name):
                values[name] = True
        return values

    def __str__(self) -> str:
        """`23 x (172x1)⊗(1x64) + 2 x (43x8)⊗(4x8)`."""
        return " + ".join(
            f"{p.num_terms} x ({p.left[0]}x{p.left[1]})⊗({p.right[0]}x{p.right[1]})"
            for p in self.parts
        )


@dataclass(frozen=True, kw_only=True)
class MaskedShape:
    """A dense weight of which only `nonzero` entries are not masked to zero.

    Raises:
        ValueError: fewer than no entries.
    """

    nonzero: int

    def __post_init__(self) -> None:
        """Check."""
        if isinstance(self.nonzero, bool) or not isinstance(self.nonzero, int) or self.nonzero < 0:
            raise ValueError(f"nonzero={self.nonzero!r} must be a whole number of at least 0")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `parse_layer_shape` is the inverse."""
        return {"nonzero": self.nonzero}

    def __str__(self) -> str:
        """`5,504 kept`."""
        return f"{self.nonzero:,} kept"


LayerShape = FactorizedShape | MaskedShape


def parse_layer_shape(values: LayerShape | Mapping[str, Any]) -> LayerShape:
    """What `to_dict` gave, back as a shape; a shape is returned as it is.

    Raises:
        ValueError: neither `parts` nor `nonzero`, or what the shapes refuse.
    """
    if isinstance(values, (FactorizedShape, MaskedShape)):
        return values
    kinds = {"parts": FactorizedShape, "nonzero": MaskedShape}
    for key, kind in kinds.items():
        if key in values:
            try:
                return kind(**values)
            except TypeError as error:
                raise ValueError(f"{dict(values)} is no compressed layer: {error}") from error
    raise ValueError(f"{dict(values)} is no compressed layer; give parts, or nonzero")


def low_rank_shape(rows: int, columns: int, rank: int) -> PartShape:
    """Rank `rank` as a part: rank x (rows + columns) parameters."""
    return PartShape(left=(rows, 1), right=(1, columns), num_terms=rank)


def part_with_right(shape: Shape, right: Sequence[int], num_terms: int = 1) -> PartShape:
    """The part of overall `shape` whose right factors are `right`.

    Raises:
        ValueError: `right` does not divide `shape`; names the sizes that do.
    """
    left = []
    for name, size, factor in zip(("rows", "columns"), shape, right, strict=True):
        if not _is_count(factor) or size % factor:
            divisors = [n for n in range(1, size + 1) if size % n == 0]
            near = sorted(sorted(divisors, key=lambda n: abs(n - factor))[:4])
            raise ValueError(
                f"right factor {tuple(right)} does not divide a weight of {shape[0]}x{shape[1]}: "
                f"{name} {factor} of {size}; use one of {', '.join(map(str, near))}"
            )
        left.append(size // factor)
    return PartShape(left=(left[0], left[1]), right=(right[0], right[1]), num_terms=num_terms)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
