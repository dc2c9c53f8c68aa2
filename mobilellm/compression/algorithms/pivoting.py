"""Rows of a low-rank matrix from which all its other rows are computed with small coefficients.

PIFA selects them by a QR decomposition with column pivoting, whose coefficients can grow
exponentially with the rank. Here, an LU decomposition with partial pivoting selects them first, and
they are then exchanged until no coefficient exceeds `LARGEST`. Each exchange multiplies the volume
that the rows span by the coefficient, so that the exchanges end. With small coefficients, rounding
to fewer bits, and steps of training, change all rows about equally.

Source: Zhao et al. 2025, PIFA, arXiv:2501.19090; Goreinov et al. 2010, "How to find a good
submatrix" (the exchanges).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Rows with a coefficient above this are exchanged. Nearer to 1, more exchanges are needed.
LARGEST = 1.1


def pivoted_factors(
    left: Float[Tensor, "rows rank"], right: Float[Tensor, "rank columns"]
) -> tuple[Float[Tensor, "rank columns"], Float[Tensor, "others rank"], Int[Tensor, "rows"]]:
    """Convert a low-rank product to the form of `PivotedLinear`, which has the same entries.

    Args:
        left: float64, with a rank below the number of rows.
        right: float64.

    Returns:
        pivots (rank, columns), coefficients (rows - rank, rank) and the order of the rows (rows,).

    Raises:
        ValueError: the rank is not below the number of rows.
    """
    rows, rank = left.shape
    if rank >= rows:
        raise ValueError(f"rank={rank} must be below the number of rows, {rows}; use a lower rank")
    # The columns of the basis are orthogonal even if the product has a lower rank.
    basis, mixing = torch.linalg.qr(left)
    chosen = large_volume_rows(basis).sort().values
    is_other = torch.ones(rows, dtype=torch.bool, device=left.device)
    is_other[chosen] = False
    others = is_other.nonzero().squeeze(1)
    coefficients = torch.linalg.solve(basis[chosen], basis[others], left=False)
    pivots = basis[chosen] @ (mixing @ right)
    return pivots, coefficients, torch.cat((chosen, others)).argsort()


def large_volume_rows(basis: Float[Tensor, "rows rank"]) -> Int[Tensor, "rank"]:
    """Indices of rows of which every row is a combination with coefficients of at most `LARGEST`.

    Args:
        basis: float64, of full column rank.
    """
    rows, rank = basis.shape
    order = list(range(rows))
    for place, other in enumerate((torch.linalg.lu_factor(basis)[1] - 1).tolist()):
        order[place], order[other] = order[other], order[place]
    chosen = torch.tensor(order[:rank], device=basis.device)
    coefficients = torch.linalg.solve(basis[chosen], basis, left=False)
    while True:
        row, column = divmod(int(coefficients.abs().argmax()), rank)
        largest = coefficients[row, column].clone()
        if not largest.abs() > LARGEST:
            return chosen
        # The exchange changes the coefficients by a matrix of rank 1 (Sherman and Morrison).
        change = coefficients[row].clone()
        change[column] -= 1
        coefficients -= torch.outer(coefficients[:, column] / largest, change)
        chosen[column] = row
