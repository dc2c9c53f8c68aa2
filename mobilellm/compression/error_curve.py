"""The error of one matrix by how many parameters it keeps: an estimate from one decomposition."""

from functools import cached_property

import torch
from torch import Tensor

from mobilellm.compression.algorithms.kronecker import rearrange
from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.algorithms.sums import SumFit
from mobilellm.compression.division import Division
from mobilellm.layers.factorized import FactorizedLinear, FactorizedShape

# Shares of a matrix's parameters among which a search chooses; beyond the last it stays dense.
SHARES = tuple(step / 20 for step in range(1, 20))


class ErrorCurve:
    """What one matrix loses in each of the shapes that its parts can make of it.

    Low rank: the best matrix of each rank under the metric, exactly. Kronecker products: the
    nearest sum of each number of terms in norm, which stands in for the fit under the metric.

    Args:
        name: of the matrix.
        weight: (out, in).
        metric: how its error is measured.
        division: which parts it is made of, and its share of the budget.
    """

    def __init__(self, name: str, weight: Tensor, metric: Metric, division: Division) -> None:
        """Nothing is decomposed yet."""
        self.name, self.weight, self.metric = name, weight, metric
        self.division = division
        self._open = next(i for i, part in enumerate(division.parts) if part.num_terms is None)

    @property
    def size(self) -> int:
        """Entries of the matrix."""
        return self.weight.numel()

    def choices(self, near: float) -> list[FactorizedShape]:
        """Shapes from small to large, among them the one for `near` parameters."""
        shapes: dict[int, FactorizedShape] = {}
        for parameters in (near, *(share * self.size for share in SHARES)):
            shape = self._shape_or_none(parameters)
            if shape is not None and shape.parameters < self.size:
                shapes[shape.parameters] = shape
        return [shapes[parameters] for parameters in sorted(shapes)]

    def squared_error(self, shape: FactorizedShape) -> float:
        """Of the best weights in a shape that these parts make; in no unit of its own."""
        return float(self._tails[shape.parts[self._open].num_terms])

    def layer(self, parameters: float) -> FactorizedLinear | None:
        """A layer with at most so many parameters, fitted; None where it is better left dense."""
        if parameters >= self.size:
            return None
        shape = self.division.written(self.name, parameters)
        return SumFit(self.weight, shape, self.metric).layer(self.weight.dtype)

    def _shape_or_none(self, parameters: float) -> FactorizedShape | None:
        try:
            return self.division.written(self.name, parameters)
        except ValueError:  # too few for one term
            return None

    @cached_property
    def _tails(self) -> Tensor:
        """Squared error by terms of the open part, from none to all."""
        template = self.division.parts[self._open]
        size = self.division.config.matrix_sizes[self.name]
        rest = self.weight.double() - self._fixed(size)
        part = template.part(size, 1)
        if part.is_low_rank:
            rest = self.metric.whiten(rest)
        else:
            rest = rearrange(rest, part.left, part.right)
        squares = torch.linalg.svdvals(rest).square()
        tails = squares.flip(0).cumsum(0).flip(0)
        return torch.cat((tails, tails.new_zeros(1)))

    def _fixed(self, size: tuple[int, int]) -> Tensor | float:
        """What the parts with given terms represent."""
        fixed = [
            template.part(size, template.num_terms)
            for template in self.division.parts
            if template.num_terms is not None
        ]
        if not fixed:
            return 0.0
        fit = SumFit(self.weight, FactorizedShape(parts=tuple(fixed)), self.metric)
        return fit.layer(torch.float64).materialize().detach()
