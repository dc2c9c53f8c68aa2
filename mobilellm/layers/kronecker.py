"""One part of a factorised weight: a sum of Kronecker products with factors of the same sizes.

A low-rank matrix is a special case: the left factors are columns (rows x 1), the right factors are
rows (1 x columns), and the number of terms is the rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mobilellm.layers.bias import check_bias
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

    @property
    def size(self) -> Size:
        """Rows and columns of the products."""
        return self.left[0] * self.right[0], self.left[1] * self.right[1]

    @property
    def parameters(self) -> int:
        """Number of entries of all factors."""
        (m1, n1), (m2, n2) = self.left, self.right
        return self.num_terms * (m1 * n1 + m2 * n2)

    @property
    def max_terms(self) -> int:
        """Smallest number of terms that can represent every matrix exactly."""
        (m1, n1), (m2, n2) = self.left, self.right
        return min(m1 * n1, m2 * n2)

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
        return f"{self.num_terms} x ({m1}x{n1})⊗({m2}x{n2})"

    def short_text(self) -> str:
        """Return the rank of a low-rank part, and `text` of another one."""
        return f"rank {self.num_terms}" if self.is_low_rank else self.text()

    def rate_exponent(self, side: str, *, is_table: bool) -> float:
        """Power of the width by which the learning rate of a factor falls as models grow.

        In a larger model a low rank is larger in proportion, so that both factors sum over more
        inputs. Of two Kronecker factors the one with more columns grows, and the other stays as it
        is. The rate of a factor falls as 1 / inputs if its initial entries fall as
        1 / sqrt(inputs). The entries of two factors are equally large
        (`FactorizedShape.parameter_std`), which moves a power of the width from one to the other,
        and the rates move with the entries.

        Args:
            side: `left` or `right`.
            is_table: whether the matrix is a token embedding or an output head.
        """
        if self.is_low_rank:
            return (0.25 if side == "left" else 0.75) if is_table else 1.0
        if is_table:
            return 0.0
        grows = "left" if self.left[1] >= self.right[1] else "right"
        return 0.75 if side == grows else 0.25


class KroneckerLinear(nn.Module):
    """Linear layer Σ (leftᵢ ⊗ rightᵢ) x + bias, computed without forming the Kronecker products.

    If x is reshaped to a matrix X (n1, n2), then (left ⊗ right) x is left X rightᵀ. The two
    products are computed in the cheaper order.
    """

    def __init__(
        self,
        left: Float[Tensor, "..."],
        right: Float[Tensor, "..."],
        bias: Float[Tensor, "..."] | None = None,
    ) -> None:
        """Store the factors and the bias.

        Args:
            left: (num_terms, m1, n1).
            right: (num_terms, m2, n2).
            bias: (m1·m2,) or None.

        Raises:
            ValueError: the factors or the bias have other shapes.
        """
        super().__init__()
        if left.dim() != 3 or right.dim() != 3 or left.shape[0] != right.shape[0]:
            raise ValueError(
                f"left has shape {tuple(left.shape)} and right {tuple(right.shape)}; give "
                "(num_terms, m1, n1) and (num_terms, m2, n2)"
            )
        self.left = nn.Parameter(left.contiguous())
        self.right = nn.Parameter(right.contiguous())
        check_bias(bias, self.out_features)
        self.bias = None if bias is None else nn.Parameter(bias)
        self._right_first = self.shape.right_first

    @classmethod
    def empty(cls, shape: PartShape) -> "KroneckerLinear":
        """A layer with uninitialised factors of the given shape, without bias."""
        return cls(torch.empty(shape.num_terms, *shape.left),
                   torch.empty(shape.num_terms, *shape.right))  # fmt: skip

    @property
    def shape(self) -> PartShape:
        """Shapes of the factors and number of terms."""
        terms, m1, n1 = self.left.shape
        m2, n2 = self.right.shape[1:]
        return PartShape(left=(m1, n1), right=(m2, n2), num_terms=terms)

    @property
    def num_terms(self) -> int:
        """Number of terms of the sum."""
        return self.left.shape[0]

    @property
    def in_features(self) -> int:
        """Number of inputs, n1·n2."""
        return self.left.shape[2] * self.right.shape[2]

    @property
    def out_features(self) -> int:
        """Number of outputs, m1·m2."""
        return self.left.shape[1] * self.right.shape[1]

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """Apply the layer: (..., in) -> (..., out)."""
        x = x.unflatten(-1, (self.left.shape[2], self.right.shape[2]))
        y = self._right_then_left(x) if self._right_first else self._left_then_right(x)
        return y if self.bias is None else y + self.bias

    def _right_then_left(self, x: Float[Tensor, "*batch n1 n2"]) -> Float[Tensor, "*batch out"]:
        """Apply the right factors, then all left factors in one product."""
        terms, m2, n2 = self.right.shape
        m1, n1 = self.left.shape[1:]
        left = self.left.permute(1, 2, 0).reshape(m1, n1 * terms)
        inner = F.linear(x, self.right.permute(1, 0, 2).reshape(m2 * terms, n2))
        if m2 == 1:  # Right factors with one row, as in low rank, need no transposition.
            return F.linear(inner.flatten(-2), left)
        # (..., n1, m2, terms) -> (..., m2, n1·terms)
        inner = inner.unflatten(-1, (m2, terms)).transpose(-3, -2).flatten(-2)
        return F.linear(inner, left).transpose(-2, -1).flatten(-2)

    def _left_then_right(self, x: Float[Tensor, "*batch n1 n2"]) -> Float[Tensor, "*batch out"]:
        """Apply the left factors, then all right factors in one product."""
        terms, m2, n2 = self.right.shape
        m1, n1 = self.left.shape[1:]
        inner = F.linear(x.transpose(-2, -1), self.left.reshape(terms * m1, n1))
        # (..., n2, terms, m1) -> (..., m1, terms·n2)
        inner = inner.unflatten(-1, (terms, m1)).movedim(-1, -3).transpose(-2, -1).flatten(-2)
        right = self.right.permute(1, 0, 2).reshape(m2, terms * n2)
        return F.linear(inner, right).flatten(-2)

    def rows(self, indices: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch in"]:
        """Compute rows of the weight for an embedding look-up: indices (...) -> (..., in)."""
        m2 = self.right.shape[1]
        left = self.left.transpose(0, 1)[indices // m2]  # (..., terms, n1)
        right = self.right.transpose(0, 1)[indices % m2]  # (..., terms, n2)
        return (left.transpose(-2, -1) @ right).flatten(-2)

    def materialize(self) -> Float[Tensor, "out in"]:
        """The dense weight (out, in)."""
        product = torch.einsum("tac,tbd->abcd", self.left, self.right)
        return product.reshape(self.out_features, self.in_features)

    def extra_repr(self) -> str:
        """Shapes, for `print(model)`."""
        part = self.shape
        (m1, n1), (m2, n2) = part.left, part.right
        return f"{part.num_terms} x ({m1}x{n1})⊗({m2}x{n2}), bias={self.bias is not None}"


def low_rank_shape(rows: int, columns: int, rank: int) -> PartShape:
    """The shape of a low-rank product, which has rank x (rows + columns) parameters."""
    return PartShape(left=(rows, 1), right=(1, columns), num_terms=rank)


def rank_for(parameters: float, rows: int, columns: int) -> int:
    """The largest rank for which rank x (rows + columns) is at most `parameters`."""
    return min(int(parameters // (rows + columns)), rows, columns)


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
