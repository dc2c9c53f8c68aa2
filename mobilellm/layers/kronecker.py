"""One part of a factorised weight: a sum of Kronecker products with factors of the same sizes."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mobilellm.layers.bias import check_bias
from mobilellm.layers.part_shape import PartShape


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
        return _product(inner, left).transpose(-2, -1).flatten(-2)

    def _left_then_right(self, x: Float[Tensor, "*batch n1 n2"]) -> Float[Tensor, "*batch out"]:
        """Apply the left factors, then all right factors in one product."""
        terms, m2, n2 = self.right.shape
        m1, n1 = self.left.shape[1:]
        inner = _product(x.transpose(-2, -1), self.left.reshape(terms * m1, n1))
        # (..., n2, terms, m1) -> (..., m1, terms·n2)
        inner = inner.unflatten(-1, (terms, m1)).movedim(-1, -3).transpose(-2, -1).flatten(-2)
        right = self.right.permute(1, 0, 2).reshape(m2, terms * n2)
        return _product(inner, right).flatten(-2)

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


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """`F.linear`, which under autocast may copy the weight for each row of an x with gaps."""
    rows = x.reshape(-1, x.shape[-1])
    return F.linear(rows, weight).view(*x.shape[:-1], weight.shape[0])
