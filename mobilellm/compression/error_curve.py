"""Approximation error of one matrix as a function of its parameters, from a single SVD."""

from functools import cached_property

import torch
from torch import Tensor

from mobilellm.compression.algorithms.kronecker import rearrange
from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.algorithms.sums import SumFit
from mobilellm.compression.division import Division
from mobilellm.layers.factorized import FactorizedLinear, FactorizedShape

# Shares of a matrix's parameters that an allocation search can choose, besides leaving it dense.
SHARES = tuple(step / 20 for step in range(1, 20))
# Number of fitted layers that are kept for each matrix, since a search tries few shapes repeatedly.
KEPT_LAYERS = 3


class ErrorCurve:
    """Error of one matrix for each number of terms of its open part.

    For low rank the error is exact: that of the best matrix of each rank under the metric. For
    Kronecker products it is that of the nearest sum in the Frobenius norm, as an estimate of the
    error under the metric.

    Args:
        name: name of the matrix.
        weight: (out, in).
        metric: the metric of the error.
        division: the parts of the shapes.
    """

    def __init__(self, name: str, weight: Tensor, metric: Metric, division: Division) -> None:
        """Store the arguments; the SVD is computed when it is first needed."""
        self.name, self.weight, self.metric = name, weight, metric
        self.division = division
        self._open_part = next(i for i, part in enumerate(division.parts) if part.num_terms is None)
        self._layers: dict[FactorizedShape, FactorizedLinear] = {}

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
        return float(self._squared_errors[shape.parts[self._open_part].num_terms])

    def layer(self, parameters: float) -> FactorizedLinear | None:
        """A fitted layer with at most `parameters` parameters; None if the matrix stays dense."""
        if parameters >= self.size:
            return None
        shape = self.division.shape_for(self.name, parameters)
        if shape not in self._layers:
            if len(self._layers) == KEPT_LAYERS:
                del self._layers[next(iter(self._layers))]
            self._layers[shape] = SumFit(self.weight, shape, self.metric).layer(self.weight.dtype)
        return self._layers[shape]

    def _shape_or_none(self, parameters: float) -> FactorizedShape | None:
        try:
            return self.division.shape_for(self.name, parameters)
        except ValueError:  # There are too few parameters for one term.
            return None

    @cached_property
    def _squared_errors(self) -> Tensor:
        """Squared error by the number of terms (0, 1, …) of the part with num_terms=None."""
        template = self.division.parts[self._open_part]
        size = self.division.config.matrix_sizes[self.name]
        rest = self.weight.double() - self._fixed_parts(size)
        part = template.part(size, 1)
        if part.is_low_rank:
            rest = self.metric.whiten(rest)
        else:
            rest = rearrange(rest, part.left, part.right)
        squares = torch.linalg.svdvals(rest).square()
        tails = squares.flip(0).cumsum(0).flip(0)
        return torch.cat((tails, tails.new_zeros(1)))

    def _fixed_parts(self, size: tuple[int, int]) -> Tensor | float:
        """The dense matrix that the parts with given num_terms represent."""
        fixed = [
            template.part(size, template.num_terms)
            for template in self.division.parts
            if template.num_terms is not None
        ]
        if not fixed:
            return 0.0
        fit = SumFit(self.weight, FactorizedShape(parts=tuple(fixed)), self.metric)
        return fit.layer(torch.float64).materialize().detach()
