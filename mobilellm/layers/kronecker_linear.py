"""A linear layer whose weight is a sum of Kronecker products of one shape."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilellm.layers.shapes import PartShape


class KroneckerLinear(nn.Module):
    """x -> Σ (leftᵢ ⊗ rightᵢ) x + bias, without forming the products, in the cheaper order.

    With x as a matrix X (n1, n2), row by row, (left ⊗ right) x is left X rightᵀ.
    """

    def __init__(self, left: Tensor, right: Tensor, bias: Tensor | None = None) -> None:
        """Take over the factors.

        Args:
            left: (num_terms, m1, n1).
            right: (num_terms, m2, n2).
            bias: (m1·m2,) or None.

        Raises:
            ValueError: factors or a bias of other shapes.
        """
        super().__init__()
        if left.dim() != 3 or right.dim() != 3 or left.shape[0] != right.shape[0]:
            raise ValueError(
                f"left has shape {tuple(left.shape)} and right {tuple(right.shape)}; give "
                "(num_terms, m1, n1) and (num_terms, m2, n2)"
            )
        self.left = nn.Parameter(left.contiguous())
        self.right = nn.Parameter(right.contiguous())
        if bias is not None and tuple(bias.shape) != (self.out_features,):
            raise ValueError(
                f"bias has shape {tuple(bias.shape)}; give ({self.out_features},) or None"
            )
        self.bias = None if bias is None else nn.Parameter(bias)
        self._right_first = self.shape.right_first

    @classmethod
    def empty(cls, shape: PartShape) -> "KroneckerLinear":
        """Factors of the given shapes, not filled."""
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
        """Terms of the sum."""
        return self.left.shape[0]

    @property
    def in_features(self) -> int:
        """n1·n2."""
        return self.left.shape[2] * self.right.shape[2]

    @property
    def out_features(self) -> int:
        """m1·m2."""
        return self.left.shape[1] * self.right.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        x = x.unflatten(-1, (self.left.shape[2], self.right.shape[2]))
        y = self._right_then_left(x) if self._right_first else self._left_then_right(x)
        return y if self.bias is None else y + self.bias

    def _right_then_left(self, x: Tensor) -> Tensor:
        """(..., n1, n2) -> (..., m1·m2): right factors, then one product with all left ones."""
        terms, m2, n2 = self.right.shape
        m1, n1 = self.left.shape[1:]
        left = self.left.permute(1, 2, 0).reshape(m1, n1 * terms)
        inner = F.linear(x, self.right.permute(1, 0, 2).reshape(m2 * terms, n2))
        if m2 == 1:  # low rank, and a row as right factor: two products, and no copy of weights
            return F.linear(inner.flatten(-2), left)
        # (..., n1, m2, terms) -> (..., m2, n1·terms)
        inner = inner.unflatten(-1, (m2, terms)).transpose(-3, -2).flatten(-2)
        return F.linear(inner, left).transpose(-2, -1).flatten(-2)

    def _left_then_right(self, x: Tensor) -> Tensor:
        """(..., n1, n2) -> (..., m1·m2): left factors, then one product with all right ones."""
        terms, m2, n2 = self.right.shape
        m1, n1 = self.left.shape[1:]
        inner = F.linear(x.transpose(-2, -1), self.left.reshape(terms * m1, n1))
        # (..., n2, terms, m1) -> (..., m1, terms·n2)
        inner = inner.unflatten(-1, (terms, m1)).movedim(-1, -3).transpose(-2, -1).flatten(-2)
        right = self.right.permute(1, 0, 2).reshape(m2, terms * n2)
        return F.linear(inner, right).flatten(-2)

    def rows(self, indices: Tensor) -> Tensor:
        """Rows of the product, as an embedding needs them: (...) -> (..., in)."""
        m2 = self.right.shape[1]
        left = self.left.transpose(0, 1)[indices // m2]  # (..., terms, n1)
        right = self.right.transpose(0, 1)[indices % m2]  # (..., terms, n2)
        return (left.transpose(-2, -1) @ right).flatten(-2)

    def materialize(self) -> Tensor:
        """The dense weight (out, in)."""
        product = torch.einsum("tac,tbd->abcd", self.left, self.right)
        return product.reshape(self.out_features, self.in_features)

    def extra_repr(self) -> str:
        """Shapes, for `print(model)`."""
        part = self.shape
        (m1, n1), (m2, n2) = part.left, part.right
        return f"{part.num_terms} x ({m1}x{n1})⊗({m2}x{n2}), bias={self.bias is not None}"
