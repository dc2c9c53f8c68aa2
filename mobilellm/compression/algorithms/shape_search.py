"""Search for the factorised shape that best approximates a weight within a number of parameters.

Candidates are low rank, Kronecker products with small right factors, and sums of both. Low rank
alone is always a candidate, so that the result is never worse than low rank.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from mobilellm.compression.algorithms.kronecker import nearest_kronecker
from mobilellm.compression.algorithms.low_rank import nearest_low_rank
from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.algorithms.sums import SumFit, dense
from mobilellm.layers.factorized import FactorizedShape
from mobilellm.layers.part_shape import PartShape, low_rank_shape, rank_for
from mobilellm.ranges import Range, check_fields


@dataclass(frozen=True, kw_only=True)
class ShapeSearch:
    """The candidates of a shape search.

    Raises:
        ValueError: a number is out of range, or `terms` is empty.
    """

    right_sizes: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of rows and of columns of right factors; those that divide the weight's are tried."""
    terms: tuple[int, ...] = (1, 2, 4)
    """Numbers of terms of a Kronecker part that is combined with low rank."""
    finalists: int = 3
    """Number of candidates, besides low rank, that are fitted until convergence. They are chosen by
    the error of a cheap first fit."""

    def __post_init__(self) -> None:
        """Make tuples of lists and check."""
        count = Range(at_least=1, cap=1024)
        check_fields(self, right_sizes=count, terms=count, finalists=count)
        object.__setattr__(self, "right_sizes", tuple(self.right_sizes))
        object.__setattr__(self, "terms", tuple(self.terms))
        if not self.terms:
            raise ValueError("terms is empty; give at least one number")


def search_shape(
    weight: Float[Tensor, "rows columns"],
    parameters: int,
    metric: Metric | None = None,
    search: ShapeSearch | None = None,
    *,
    pivoted: bool = False,
) -> SumFit:
    """The best sum found with at most `parameters` entries, fitted to the weight.

    Args:
        weight: (out, in).
        parameters: largest number of entries of all factors together.
        metric: default: the Frobenius norm.
        search: the candidates; default: `ShapeSearch()`.
        pivoted: whether low-rank parts are pivoted.

    Raises:
        ValueError: there are too few parameters for any candidate.
    """
    search, metric = search or ShapeSearch(), metric or Metric()
    rows, columns = weight.shape
    weight = weight.detach().double()
    check_parameters((rows, columns), parameters, search, pivoted=pivoted)
    shapes = list(_candidates((rows, columns), parameters, search, pivoted))
    screened = sorted(shapes, key=_FirstFitError(weight, metric))
    # Low rank needs no further fitting and is always a finalist.
    finalists = [s for s in shapes if len(s.parts) == 1 and s.parts[0].is_low_rank]
    finalists += [s for s in screened if s not in finalists][: search.finalists]
    fits = [SumFit(weight, shape, metric).improve() for shape in finalists]
    return min(fits, key=lambda fit: fit.error)


def check_parameters(
    size: tuple[int, int], parameters: int, search: ShapeSearch, *, pivoted: bool = False
) -> None:
    """Check that at least one candidate fits into the number of parameters.

    Raises:
        ValueError: no candidate fits.
    """
    if not any(True for _ in _candidates(size, parameters, search, pivoted)):
        rows, columns = size
        raise ValueError(
            f"{parameters} parameters are too few for a weight of {rows}x{columns}; even rank 1 "
            f"takes {rows + columns}: keep more, or leave this layer out"
        )


def _candidates(
    size: tuple[int, int], parameters: int, search: ShapeSearch, pivoted: bool
) -> Iterator[FactorizedShape]:
    rows, columns = size
    rank = rank_for(parameters, rows, columns, pivoted=pivoted)
    if rank:
        yield FactorizedShape(parts=(low_rank_shape(rows, columns, rank, pivoted=pivoted),))
    for m2 in search.right_sizes:
        for n2 in search.right_sizes:
            # Scalar right factors and left factors with a single row or column are not tried.
            if rows % m2 or columns % n2 or m2 * n2 == 1 or (m2 == rows) or (n2 == columns):
                continue
            yield from _with_right((rows, columns), (m2, n2), parameters, search, pivoted)


def _with_right(
    size: tuple[int, int],
    right: tuple[int, int],
    parameters: int,
    search: ShapeSearch,
    pivoted: bool,
) -> Iterator[FactorizedShape]:
    rows, columns = size
    left = (rows // right[0], columns // right[1])
    one = PartShape(left=left, right=right)
    fitting = min(parameters // one.parameters, one.max_terms)
    if fitting:
        alone = PartShape(left=left, right=right, num_terms=fitting)
        yield FactorizedShape(parts=(alone,))
    for terms in search.terms:
        rank = rank_for(parameters - terms * one.parameters, rows, columns, pivoted=pivoted)
        if rank >= 1 and terms <= one.max_terms:
            part = PartShape(left=left, right=right, num_terms=terms)
            low_rank = low_rank_shape(rows, columns, rank, pivoted=pivoted)
            yield FactorizedShape(parts=(low_rank, part))


class _FirstFitError:
    """Squared error of a shape after a cheap first fit, which uses one SVD for all ranks."""

    def __init__(self, weight: Tensor, metric: Metric) -> None:
        self.weight, self.metric = weight, metric
        self._left, self._right = nearest_low_rank(weight, min(weight.shape), metric)

    def __call__(self, shape: FactorizedShape) -> float:
        residual = self.weight
        for part in shape.parts:
            if part.is_low_rank:
                rank = part.num_terms
                residual = residual - dense((self._left[:rank], self._right[:rank]))
            else:
                factors = nearest_kronecker(residual, part.left, part.right, part.num_terms)
                residual = residual - dense(factors)
        return self.metric.squared_norm(residual)
