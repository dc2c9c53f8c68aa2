"""Fitting sums of parts of different shapes: part after part, each to what the others leave."""

import torch
from torch import Tensor

from mobilellm.compression.algorithms.kronecker import nearest_kronecker
from mobilellm.compression.algorithms.least_squares import refit_kronecker
from mobilellm.compression.algorithms.low_rank import nearest_low_rank
from mobilellm.compression.algorithms.metric import Metric
from mobilellm.layers.factorized import FactorizedLinear, FactorizedShape
from mobilellm.layers.kronecker import KroneckerLinear, PartShape

Factors = tuple[Tensor, Tensor]


class SumFit:
    """A sum of parts being fitted to a weight; float64 throughout."""

    def __init__(
        self, weight: Tensor, shape: FactorizedShape, metric: Metric | None = None
    ) -> None:
        """Fit each part in turn to what the ones before it leave.

        Args:
            weight: (out, in).
            shape: parts and their terms; its permutations are the caller's business.
            metric: default: the Frobenius norm.

        Raises:
            ValueError: a shape that is not the weight's.
        """
        if tuple(weight.shape) != shape.size:
            raise ValueError(f"weight has shape {tuple(weight.shape)}, the parts {shape.size}")
        self.weight = weight.detach().double()
        self.metric = metric or Metric()
        self.parts = shape.parts
        self.factors: list[Factors] = []
        self._residual = self.weight.clone()
        for part in self.parts:
            factors = self._first_fit(part)
            self.factors.append(factors)
            self._residual -= dense(factors)

    @property
    def shape(self) -> FactorizedShape:
        """The parts, without permutations."""
        return FactorizedShape(parts=self.parts)

    @property
    def error(self) -> float:
        """Relative error under the metric."""
        return self.metric.relative_error(self.weight, self.weight - self._residual)

    def improve(self, sweeps: int = 50, tolerance: float = 1e-4) -> "SumFit":
        """Refit the parts in turns until a sweep lowers the squared error by less than `tolerance`.

        A refit that rounding made worse is not kept, so that the error never rises.
        """
        before = self.metric.squared_norm(self._residual)
        for _ in range(sweeps):
            for index, part in enumerate(self.parts):
                self._refit(index, part)
            after = self.metric.squared_norm(self._residual)
            if after >= (1 - tolerance) * before:
                break
            before = after
        return self

    def layer(self, dtype: torch.dtype = torch.float32) -> FactorizedLinear:
        """The layer with these factors, the two of a term of equal norms."""
        return FactorizedLinear(
            [KroneckerLinear(*(f.to(dtype) for f in balanced(pair))) for pair in self.factors]
        )

    def _first_fit(self, part: PartShape) -> Factors:
        if part.is_low_rank:
            return nearest_low_rank(self._residual, part.num_terms, self.metric)
        factors = nearest_kronecker(self._residual, part.left, part.right, part.num_terms)
        return refit_kronecker(self._residual, *factors, self.metric, sweeps=3)

    def _refit(self, index: int, part: PartShape) -> None:
        old = self.factors[index]
        goal = self._residual + dense(old)
        if part.is_low_rank:
            new = nearest_low_rank(goal, part.num_terms, self.metric)
        elif self.metric.moment is None:
            new = nearest_kronecker(goal, part.left, part.right, part.num_terms)
        else:
            new = refit_kronecker(goal, *old, self.metric)
        residual = goal - dense(new)
        if self.metric.squared_norm(residual) <= self.metric.squared_norm(self._residual):
            self.factors[index], self._residual = new, residual


def dense(factors: Factors) -> Tensor:
    """Σ leftᵢ ⊗ rightᵢ as a matrix (out, in)."""
    left, right = factors
    if left.shape[2] == 1 and right.shape[1] == 1:
        return left.squeeze(2).T @ right.squeeze(1)
    product = torch.einsum("tac,tbd->abcd", left, right)
    return product.reshape(left.shape[1] * right.shape[1], left.shape[2] * right.shape[2])


def balanced(factors: Factors) -> Factors:
    """The same terms with left and right factors of equal norms: both then learn alike."""
    left, right = factors
    norms = [torch.linalg.vector_norm(f, dim=(1, 2), keepdim=True) for f in (left, right)]
    scale = (norms[1] / norms[0].clamp(min=1e-300)).sqrt()
    scale = torch.where(norms[0] * norms[1] > 0, scale, torch.ones_like(scale))
    return left * scale, right / scale
