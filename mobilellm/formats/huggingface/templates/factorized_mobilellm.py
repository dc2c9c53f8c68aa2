"""Matrices that are stored as sums of Kronecker or low-rank products; see modeling_mobilellm.py."""

from typing import Any

import torch
from torch import Tensor, nn


class KroneckerPart(nn.Module):
    """Sum of (left ⊗ right) x over the terms; in a low-rank product, left has one column."""

    def __init__(self, left: list[int], right: list[int], num_terms: int = 1) -> None:
        """Allocate left (num_terms, m1, n1) and right (num_terms, m2, n2)."""
        super().__init__()
        self.left = nn.Parameter(torch.empty(num_terms, *left))
        self.right = nn.Parameter(torch.empty(num_terms, *right))
        (m1, n1), (m2, n2) = left, right
        self.right_first = n1 * n2 * m2 + n1 * m2 * m1 <= m1 * n1 * n2 + m1 * n2 * m2

    def forward(self, x: Tensor) -> Tensor:
        """(..., n1·n2) -> (..., m1·m2), by the product that is cheaper first."""
        x = x.unflatten(-1, (self.left.shape[2], self.right.shape[2]))
        if self.right_first:
            inner = torch.einsum("...cd,tbd->...tcb", x, self.right)
            return torch.einsum("...tcb,tac->...ab", inner, self.left).flatten(-2)
        inner = torch.einsum("...cd,tac->...tad", x, self.left)
        return torch.einsum("...tad,tbd->...ab", inner, self.right).flatten(-2)

    def rows(self, index: Tensor) -> Tensor:
        """Rows of the matrix, (...) -> (..., n1·n2)."""
        size = self.right.shape[1]
        left, right = self.left[:, index // size], self.right[:, index % size]
        return torch.einsum("t...c,t...d->...cd", left, right).flatten(-2)


class PivotedPart(nn.Module):
    """A low-rank matrix stored as some of its rows, and coefficients that make the others."""

    row_order: Tensor

    def __init__(self, left: list[int], right: list[int], num_terms: int) -> None:
        """Allocate pivots (num_terms, in), coefficients, and the order of the rows."""
        super().__init__()
        self.pivots = nn.Parameter(torch.empty(num_terms, right[1]))
        self.coefficients = nn.Parameter(torch.empty(left[0] - num_terms, num_terms))
        self.register_buffer("row_order", torch.arange(left[0], dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        own = nn.functional.linear(x, self.pivots)
        y = torch.cat((own, nn.functional.linear(own, self.coefficients)), dim=-1)
        return y.index_select(-1, self.row_order)

    def rows(self, index: Tensor) -> Tensor:
        """Rows of the matrix, (...) -> (..., in)."""
        place, rank = self.row_order[index], len(self.pivots)
        others = self.coefficients[(place - rank).clamp(min=0)] @ self.pivots
        own = self.pivots[place.clamp(max=rank - 1)]
        return torch.where((place < rank).unsqueeze(-1), own, others)


def make_part(pivoted: bool = False, **shape: Any) -> nn.Module:
    """A part of this shape."""
    return (PivotedPart if pivoted else KroneckerPart)(**shape)


class FactorizedLinear(nn.Module):
    """A sum of Kronecker and low-rank parts, whose inputs and outputs may be reordered."""

    row_order: Tensor | None
    column_order: Tensor | None

    def __init__(
        self,
        parts: list[dict[str, Any]],
        row_permutation: bool = False,
        column_permutation: bool = False,
    ) -> None:
        """Allocate the parts and the orders."""
        super().__init__()
        self.parts: Any = nn.ModuleList(make_part(**part) for part in parts)
        rows = parts[0]["left"][0] * parts[0]["right"][0]
        columns = parts[0]["left"][1] * parts[0]["right"][1]
        orders = {
            "row_order": torch.arange(rows, dtype=torch.int32) if row_permutation else None,
            "column_order": torch.arange(columns, dtype=torch.int32)
            if column_permutation
            else None,
        }
        for name, order in orders.items():
            self.register_buffer(name, order)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if self.column_order is not None:
            x = x.index_select(-1, self.column_order)
        y = torch.stack([part(x) for part in self.parts]).sum(0)
        return y if self.row_order is None else y.index_select(-1, self.row_order)

    def rows(self, index: Tensor) -> Tensor:
        """Rows of the matrix, (...) -> (..., in)."""
        if self.row_order is not None:
            index = self.row_order[index]
        x = torch.stack([part.rows(index) for part in self.parts]).sum(0)
        return x if self.column_order is None else x.index_select(-1, self.column_order.argsort())


def make_linear(model: dict[str, Any], name: str, columns: int, rows: int) -> nn.Module:
    """The matrix of this name: dense, or factorised as `compressed_layers` says."""
    shape = model.get("compressed_layers", {}).get(name)
    return nn.Linear(columns, rows, bias=False) if shape is None else FactorizedLinear(**shape)
