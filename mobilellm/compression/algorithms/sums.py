"""Fitting a sum of low-rank and Kronecker parts, by fitting each part to the others' residual."""

import torch
from torch import Tensor

from mobilellm.compression.algorithms.kronecker import nearest_kronecker
from mobilellm.compression.algorithms.least_squares import refit_kronecker
from mobilellm.compression.algorithms.low_rank import nearest_low_rank
from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.algorithms.pivoting import pivoted_factors
from mobilellm.layers.factorized import FactorizedLinear, FactorizedShape
from mobilellm.layers.kronecker import KroneckerLinear
from mobilellm.layers.part_shape import PartShape
from mobilellm.layers.pivoted import PivotedLinear

Factors = tuple[Tensor, Tensor]


class SumFit:
    """A sum of parts that is fitted to a weight, in float64."""

    def __init__(
        self, weight: Tensor, shape: FactorizedShape, metric: Metric | None = None
    ) -> None:
        """Fit each part in turn to the residual of the parts before it.

        Args:
            weight: (out, in).
            shape: the parts and their numbers of terms; its permutations are ignored.
            metric: default: the Frobenius norm.

        Raises:
            ValueError: the shape and the weight differ in size.
        """
        if tuple(weight.shape) != shape.size:
            raise ValueError(
                f"weight has shape {tuple(weight.shape)}, but the parts are for a matrix of shape "
                f"{shape.size}"
            )
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
        """Refit all parts repeatedly, until the squared error falls by less than `tolerance`.

        A refit that is worse because of rounding is discarded, so that the error never increases.

        Args:
            sweeps: how often each part is refitted, at most.
            tolerance: relative decrease of the squared error below which a sweep is the last.
        """
        if len(self.parts) == 1 and self.parts[0].is_low_rank:
            return self  # It is the best one already.
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
        """The layer with these factors, scaled so that both factors of a term have equal norms."""
        return FactorizedLinear(
            [
                _pivoted(pair, dtype)
                if part.pivoted
                else KroneckerLinear(*(f.to(dtype) for f in balanced(pair)))
                for part, pair in zip(self.parts, self.factors, strict=True)
            ]
        )

    def _first_fit(self, part: PartShape) -> Factors:
        if part.is_low_rank:
            return nearest_low_rank(self._residual, part.num_terms, self.metric)
        goal, scales = self._with_even_rows(self._residual, part)
        factors = nearest_kronecker(goal, part.left, part.right, part.num_terms)
        return _unscaled(refit_kronecker(goal, *factors, self.metric, sweeps=3), scales)

    def _refit(self, index: int, part: PartShape) -> None:
        old = self.factors[index]
        goal = self._residual + dense(old)
        if part.is_low_rank:
            new = nearest_low_rank(goal, part.num_terms, self.metric)
        else:
            even, scales = self._with_even_rows(goal, part)
            if self.metric.moment is None:
                new = nearest_kronecker(even, part.left, part.right, part.num_terms)
            else:
                left = old[0] if scales is None else old[0] * scales.unsqueeze(1)
                new = refit_kronecker(even, left, old[1], self.metric)
            new = _unscaled(new, scales)
        residual = goal - dense(new)
        if self.metric.squared_norm(residual) <= self.metric.squared_norm(self._residual):
            self.factors[index], self._residual = new, residual

    def _with_even_rows(self, goal: Tensor, part: PartShape) -> tuple[Tensor, Tensor | None]:
        """The goal with scaled rows, whose best Kronecker factors are those of the goal, scaled.

        Every row of a left factor belongs to several consecutive rows of the product, which are
        given their mean weight. Weighing them one by one would need one system of equations for
        each row of the left factor.

        Returns:
            The matrix, and the scales of the rows of the left factors; None: 1.
        """
        scales = self.metric.row_scales(part.right[0])
        if scales is None:
            return goal, None
        return goal * scales.repeat_interleave(part.right[0]).unsqueeze(1), scales


def _pivoted(factors: Factors, dtype: torch.dtype) -> PivotedLinear:
    left, right = factors
    pivots, coefficients, order = pivoted_factors(left.squeeze(2).T, right.squeeze(1))
    return PivotedLinear(pivots.to(dtype), coefficients.to(dtype), order)


def _unscaled(factors: Factors, scales: Tensor | None) -> Factors:
    left, right = factors
    return (left if scales is None else left / scales.unsqueeze(1)), right


def dense(factors: Factors) -> Tensor:
    """The sum Σ leftᵢ ⊗ rightᵢ as a dense matrix (out, in)."""
    left, right = factors
    if left.shape[2] == 1 and right.shape[1] == 1:
        return left.squeeze(2).T @ right.squeeze(1)
    product = torch.einsum("tac,tbd->abcd", left, right)
    return product.reshape(left.shape[1] * right.shape[1], left.shape[2] * right.shape[2])


def balanced(factors: Factors) -> Factors:
    """The same terms, scaled so that left and right factors have equal norms.

    Their gradients are then of similar size.
    """
    left, right = factors
    norms = [torch.linalg.vector_norm(f, dim=(1, 2), keepdim=True) for f in (left, right)]
    scale = (norms[1] / norms[0].clamp(min=1e-300)).sqrt()
    scale = torch.where(norms[0] * norms[1] > 0, scale, torch.ones_like(scale))
    return left * scale, right / scale
