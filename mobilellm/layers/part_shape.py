"""Shape of one part of a factorised weight: a sum of Kronecker products of factors of equal sizes.

A low-rank matrix is a special case: the left factors are columns (rows x 1), the right factors are
rows (1 x columns), and the number of terms is the rank. `pivoted.py` has a smaller form of it.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm.layers.shape import Size


@dataclass(frozen=True, kw_only=True)
class PartShape:
    """Shape of Σ leftᵢ ⊗ rightᵢ: `num_terms` Kronecker products whose factors have the same sizes.

    Raises:
        ValueError: a size or the number of terms is below 1.
    """

    left: Size
    """Rows and columns (m1, n1) of each left factor."""
    right: Size
    """Rows and columns (m2, n2) of each right factor."""
    num_terms: int = 1
    pivoted: bool = False
    """Whether a low-rank part is stored as `num_terms` of its rows, and the coefficients by which
    they make the other rows (`PivotedLinear`)."""

    def __post_init__(self) -> None:
        """Convert lists to tuples and check the values."""
        for name in ("left", "right"):
            sizes = getattr(self, name)
            sizes = tuple(sizes) if isinstance(sizes, Sequence) else (sizes,)
            object.__setattr__(self, name, sizes)
            if len(sizes) != 2 or any(not _is_count(size) for size in sizes):
                raise ValueError(f"{name}={sizes} must be two whole numbers of at least 1")
        if not _is_count(self.num_terms):
            raise ValueError(f"num_terms={self.num_terms!r} must be a whole number of at least 1")
        if self.pivoted and not self.is_low_rank:
            raise ValueError(
                f"pivoted=True needs factors of low rank, (rows, 1) and (1, columns), but left is "
                f"{self.left} and right {self.right}; use pivoted=False"
            )
        if self.pivoted and self.num_terms >= self.size[0]:
            raise ValueError(
                f"num_terms={self.num_terms} of a pivoted part must be below its {self.size[0]} "
                "rows; use a lower rank"
            )

    @property
    def size(self) -> Size:
        """Rows and columns of the products."""
        return self.left[0] * self.right[0], self.left[1] * self.right[1]

    @property
    def parameters(self) -> int:
        """Number of entries of all factors."""
        (m1, n1), (m2, n2) = self.left, self.right
        terms = self.num_terms
        return terms * (m1 * n1 + m2 * n2 - (terms if self.pivoted else 0))

    @property
    def indices(self) -> int:
        """Number of entries of the stored order of rows, which have 32 bits each."""
        return self.size[0] if self.pivoted else 0

    @property
    def max_terms(self) -> int:
        """Smallest number of terms that can represent every matrix exactly."""
        (m1, n1), (m2, n2) = self.left, self.right
        return min(m1 * n1 - (1 if self.pivoted else 0), m2 * n2)

    @property
    def is_low_rank(self) -> bool:
        """Whether the terms are outer products of a column and a row."""
        return self.left[1] == 1 and self.right[0] == 1

    @property
    def right_first(self) -> bool:
        """Whether applying the right factors first is at most as expensive as the other order."""
        (m1, n1), (m2, n2) = self.left, self.right
        return n1 * n2 * m2 + n1 * m2 * m1 <= m1 * n1 * n2 + m1 * n2 * m2

    @property
    def flops(self) -> int:
        """Floating-point operations per input vector, in the cheaper order."""
        (m1, n1), (m2, n2) = self.left, self.right
        if self.pivoted:
            return 2 * self.parameters
        if self.right_first:
            return 2 * self.num_terms * (n1 * n2 * m2 + n1 * m2 * m1)
        return 2 * self.num_terms * (m1 * n1 * n2 + m1 * n2 * m2)

    @property
    def inner_size(self) -> int:
        """Number of values between the two products, per input vector."""
        (m1, n1), (m2, n2) = self.left, self.right
        return self.num_terms * (n1 * m2 if self.right_first else m1 * n2)

    def text(self) -> str:
        """Return a text such as `2 x (43x8)⊗(4x8)`."""
        (m1, n1), (m2, n2) = self.left, self.right
        pivoted = "pivoted " if self.pivoted else ""
        return f"{pivoted}{self.num_terms} x ({m1}x{n1})⊗({m2}x{n2})"

    def short_text(self) -> str:
        """Return the rank of a low-rank part, and `text` of another one."""
        pivoted = "pivoted " if self.pivoted else ""
        return f"{pivoted}rank {self.num_terms}" if self.is_low_rank else self.text()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the arguments of this class."""
        values = {"left": [*self.left], "right": [*self.right], "num_terms": self.num_terms}
        return values | ({"pivoted": True} if self.pivoted else {})

    def parameter_std(self, side: str, std: float) -> float:
        """Standard deviation of a factor for which the entries of the part have `std`.

        If all factors have the standard deviation s, each entry of a product has the variance s⁴.
        The stored rows of a pivoted part are entries of the part.
        """
        if self.pivoted:
            return std if side == "pivots" else self.num_terms**-0.5
        return (std**2 / self.num_terms) ** 0.25

    def rate_exponent(self, side: str, *, is_table: bool) -> float:
        """Power of the width by which the learning rate of a factor falls as models grow.

        In a larger model a low rank is larger in proportion, so that both factors sum over more
        inputs. Of two Kronecker factors the one with more columns grows, and the other stays as it
        is. The rate of a factor falls as 1 / inputs if its initial entries fall as
        1 / sqrt(inputs). The entries of two factors are equally large
        (`FactorizedShape.parameter_std`), which moves a power of the width from one to the other,
        and the rates move with the entries.

        Args:
            side: `left` or `right`; of a pivoted part, `pivots` or `coefficients`.
            is_table: whether the matrix is a token embedding or an output head.
        """
        if self.pivoted:
            return 0.0 if is_table and side == "pivots" else 1.0
        if self.is_low_rank:
            return (0.25 if side == "left" else 0.75) if is_table else 1.0
        if is_table:
            return 0.0
        grows = "left" if self.left[1] >= self.right[1] else "right"
        return 0.75 if side == grows else 0.25


def low_rank_shape(rows: int, columns: int, rank: int, *, pivoted: bool = False) -> PartShape:
    """The shape of a low-rank product, with rank x (rows + columns) parameters.

    The pivoted form has rank x (rows + columns - rank).
    """
    return PartShape(left=(rows, 1), right=(1, columns), num_terms=rank, pivoted=pivoted)


def rank_for(parameters: float, rows: int, columns: int, *, pivoted: bool = False) -> int:
    """The largest rank at which a low-rank product has at most `parameters` parameters."""
    both = rows + columns
    if not pivoted:
        return min(int(parameters // both), rows, columns)
    largest = min(rows - 1, columns)
    # rank x (both - rank) increases up to both / 2, and hence up to the largest rank.
    return bisect_right(range(1, largest + 1), parameters, key=lambda rank: rank * (both - rank))


def part_with_right(size: Size, right: Sequence[int], num_terms: int = 1) -> PartShape:
    """The shape of a part for a matrix of `size`, given the size of its right factors.

    Raises:
        ValueError: `right` does not divide `size`; the message names factors that do.
    """
    left = []
    for name, total, factor in zip(("rows", "columns"), size, right, strict=True):
        if not _is_count(factor) or total % factor:
            divisors = [n for n in range(1, total + 1) if total % n == 0]
            near = sorted(sorted(divisors, key=lambda n: abs(n - factor))[:4])
            raise ValueError(
                f"right factor {tuple(right)} does not divide a weight of {size[0]}x{size[1]}: "
                f"{total} {name} are not divisible by {factor}; use one of "
                f"{', '.join(map(str, near))}"
            )
        left.append(total // factor)
    return PartShape(left=(left[0], left[1]), right=(right[0], right[1]), num_terms=num_terms)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
