"""Pivots make all rows, with small coefficients, whatever the matrix."""

import pytest
import scipy.linalg
import torch

from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.algorithms.pivoting import LARGEST, large_volume_rows, pivoted_factors
from mobilellm.compression.algorithms.sums import SumFit
from mobilellm.layers.factorized import FactorizedShape
from mobilellm.layers.part_shape import low_rank_shape
from mobilellm.layers.pivoted import PivotedLinear


def random(*size, seed=0):
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def decaying(rows, rank, columns):
    """Singular values over twelve orders of magnitude."""
    return random(rows, rank) * torch.logspace(0, -12, rank), random(rank, columns, seed=1)


def repeated(rows, rank, columns):
    """Rows that occur many times, and a rank that is lower than the number of terms."""
    left = random(3, rank)[torch.arange(rows) % 3]
    return left, random(rank, columns, seed=1)


CASES = {
    "tall": (random(90, 20), random(20, 30, seed=1)),
    "wide": (random(30, 20), random(20, 90, seed=1)),
    "all rows but one": (random(21, 20), random(20, 25, seed=1)),
    "rank 1": (random(40, 1), random(1, 30, seed=1)),
    "decaying": decaying(60, 16, 40),
    "repeated": repeated(50, 8, 30),
    "zero": (torch.zeros(10, 3).double(), random(3, 8)),
    "scaled": (1e-6 * random(40, 9), 1e6 * random(9, 30, seed=1)),
}


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_lost(name):
    left, right = CASES[name]
    pivots, coefficients, order = pivoted_factors(left, right)
    assert coefficients.abs().max() <= LARGEST * (1 + 1e-9)
    weight = left @ right
    for dtype, bound in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        layer = PivotedLinear(pivots.to(dtype), coefficients.to(dtype), order)
        assert (layer.materialize() - weight).norm() <= bound * max(weight.norm(), 1e-30)
    # The pivots are rows of the matrix itself.
    own = (order < len(pivots)).nonzero().squeeze(1)
    torch.testing.assert_close(weight[own], pivots[order[own]])


def test_coefficients_stay_small_where_those_of_pivoted_qr_grow():
    """Kahan's matrix: pivoted QR keeps its columns in order, although they depend on the last."""
    size, sine = 24, 0.6
    upper = torch.eye(size).double() - 0.8 * torch.ones(size, size).double().triu(1)
    kahan = torch.diag(sine ** torch.arange(size).double()) @ upper
    kahan = kahan * (1 - 1e-6 * torch.arange(size).double())  # No ties.
    rows = kahan.T[:, : size - 1]
    chosen = scipy.linalg.qr(rows.T.numpy(), pivoting=True)[2][: size - 1].copy()
    greedy = torch.linalg.solve(rows[chosen], rows, left=False).abs().max()
    assert greedy > 100
    basis = torch.linalg.qr(rows)[0]
    strong = large_volume_rows(basis)
    assert torch.linalg.solve(rows[strong], rows, left=False).abs().max() <= LARGEST + 1e-6


def test_a_fitted_sum_is_the_same_with_and_without_pivots():
    weight, x = random(30, 24), random(200, 24, seed=1)
    metric = Metric(x.T @ x / 200)
    plain, pivoted = (
        SumFit(weight, FactorizedShape(parts=(low_rank_shape(30, 24, 7, pivoted=p),)), metric)
        for p in (False, True)
    )
    assert plain.error == pivoted.error
    torch.testing.assert_close(
        plain.layer(torch.float64).materialize(), pivoted.layer(torch.float64).materialize()
    )


def test_a_rank_without_other_rows_is_refused():
    with pytest.raises(ValueError, match=r"rank=5 must be below the number of rows, 5"):
        pivoted_factors(random(5, 5), random(5, 9))
