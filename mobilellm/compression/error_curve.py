"""Approximation error of one matrix as a function of its parameters, from a single SVD."""

from collections.abc import Iterable

import torch
from torch import Tensor

from mobilellm.compression.algorithms.kronecker import rearrange, truncated_svd
from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.algorithms.sums import SumFit
from mobilellm.compression.division import Division
from mobilellm.layers.factorized import FactorizedLinear, FactorizedShape
from mobilellm.layers.kronecker import KroneckerLinear

# Shares of a matrix's parameters that an allocation search can choose, besides leaving it dense.
SHARES = tuple(step / 20 for step in range(1, 20))
# Smallest and largest multiple of a matrix's uniform share that a search can choose.
LEAST, MOST = 0.5, 2.0
# Number of fitted layers that are kept for a matrix whose terms are not those of a single SVD.
KEPT_LAYERS = 6


class ErrorCurve:
    """Error of one matrix for each number of terms of its open part, and layers with these errors.

    For low rank the error is exact: that of the best matrix of each rank under the metric. For
    Kronecker products it is that of the nearest sum in the Frobenius norm, as an estimate of the
    error under the metric.

    Everything is computed at once, and the metric is not kept: second moments take more memory than
    the layers.

    Args:
        name: name of the matrix.
        weight: (out, in).
        metric: the metric of the error.
        division: the parts of the shapes.
    """

    def __init__(self, name: str, weight: Tensor, metric: Metric, division: Division) -> None:
        """Compute the errors, and the layers from half to twice the uniform share."""
        self.name, self.weight, self.division = name, weight, division
        self._open_part = next(i for i, part in enumerate(division.parts) if part.num_terms is None)
        self._factors: tuple[Tensor, Tensor] | None = None
        self._layers: dict[int, FactorizedLinear] = {}
        is_low_rank = len(division.parts) == 1 and division.parts[0].right is None
        if is_low_rank:
            self._squared_errors = self._keep_factors(metric)
        else:
            self._squared_errors = _tails(torch.linalg.svdvals(self._rest(metric)))
            for terms in self._kept_terms():
                shape = self._with_terms(terms)
                self._layers[terms] = SumFit(weight, shape, metric).layer(weight.dtype)

    @property
    def size(self) -> int:
        """Number of entries of the matrix."""
        return self.weight.numel()

    def choices(self, near: float) -> list[FactorizedShape]:
        """Candidate shapes by increasing size, including the shape for `near` parameters."""
        shapes: dict[int, FactorizedShape] = {}
        for parameters in (near, *(share * self.size for share in SHARES)):
            shape = self._shape_or_none(parameters)
            if shape is not None and shape.parameters < self.size:
                shapes[shape.parameters] = shape
        return [shapes[parameters] for parameters in sorted(shapes)]

    def squared_error(self, shape: FactorizedShape) -> float:
        """Squared error of the best weights in a shape; only ratios of the values are meaningful.

        Args:
            shape: a shape with the parts of the division.
        """
        return float(self._squared_errors[self._terms(shape)])

    def layer(self, parameters: float) -> FactorizedLinear | None:
        """A fitted layer with about `parameters` parameters; None if the matrix stays dense.

        A low-rank layer has the rank that the parameters allow. Of other sums, the largest one that
        was fitted and is not larger is returned.
        """
        if parameters >= self.size:
            return None
        terms = self._terms(self.division.shape_for(self.name, parameters))
        if self._factors is not None:
            left, right = (factor[:terms] for factor in self._factors)
            return FactorizedLinear([KroneckerLinear(left, right)])
        fitting = [kept for kept in self._layers if kept <= terms]
        return self._layers[max(fitting, default=min(self._layers))]

    def _terms(self, shape: FactorizedShape) -> int:
        return shape.parts[self._open_part].num_terms

    def _with_terms(self, terms: int) -> FactorizedShape:
        """The shape with this number of terms of the open part."""
        size = self.division.config.matrix_sizes[self.name]
        return FactorizedShape(
            parts=tuple(
                template.part(size, template.num_terms or terms) for template in self.division.parts
            )
        )

    def _largest_terms(self) -> int:
        """Number of terms at the largest share that a search can choose."""
        most = MOST * self.division.uniform()[self.name]
        shape = self._shape_or_none(min(most, self.size - 1))
        return 1 if shape is None else self._terms(shape)

    def _kept_terms(self) -> Iterable[int]:
        """Numbers of terms within the bounds of the search, that of the uniform share included."""
        uniform = self.division.uniform()[self.name]
        shapes = [self._shape_or_none(share * uniform) for share in (LEAST, 1.0)]
        least, middle = (1 if shape is None else self._terms(shape) for shape in shapes)
        most = self._largest_terms()
        steps = range(KEPT_LAYERS)
        spread = {least + round(step * (most - least) / max(KEPT_LAYERS - 1, 1)) for step in steps}
        return sorted(spread | {middle})

    def _shape_or_none(self, parameters: float) -> FactorizedShape | None:
        try:
            return self.division.shape_for(self.name, parameters)
        except ValueError:  # There are too few parameters for one term.
            return None

    def _keep_factors(self, metric: Metric) -> Tensor:
        """Keep the factors of the ranks that are searched; return the squared errors by rank."""
        whitened = metric.whiten(self.weight)
        u, s, v = truncated_svd(whitened, min(whitened.shape))
        rank = self._largest_terms()
        root = s[:rank].double().sqrt()
        left = metric.unwhiten_left(u[:, :rank].double() * root)
        right = metric.unwhiten_right((v[:, :rank].double() * root).T)
        kept = left.T.unsqueeze(2), right.unsqueeze(1)
        self._factors = (kept[0].to(self.weight.dtype), kept[1].to(self.weight.dtype))
        return _tails(s)

    def _rest(self, metric: Metric) -> Tensor:
        """The matrix whose singular values give the errors of the open part."""
        template = self.division.parts[self._open_part]
        size = self.division.config.matrix_sizes[self.name]
        rest = self.weight.double() - self._fixed_parts(size, metric)
        part = template.part(size, 1)
        if part.is_low_rank:
            return metric.whiten(rest)
        return rearrange(rest, part.left, part.right)

    def _fixed_parts(self, size: tuple[int, int], metric: Metric) -> Tensor | float:
        """The dense matrix that the parts with given num_terms represent."""
        fixed = [
            template.part(size, template.num_terms)
            for template in self.division.parts
            if template.num_terms is not None
        ]
        if not fixed:
            return 0.0
        fit = SumFit(self.weight, FactorizedShape(parts=tuple(fixed)), metric)
        return fit.layer(torch.float64).materialize().detach()


def _tails(singular_values: Tensor) -> Tensor:
    """Sums of the squares of all singular values without the first 0, 1, 2 and so on."""
    squares = singular_values.double().square()
    return torch.cat((squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)))
