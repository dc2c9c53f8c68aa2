"""Robust fits of a constant and a sum of power laws, many at the same time.

The form is L = L0 + c_1 x_1^-e_1 + … + c_k x_k^-e_k with positive parameters. Residuals are
differences of log L, so that large and small losses count equally, and Huber's loss limits the
influence of single runs. All parameters are fitted as logarithms, from many starting points, by
damped Gauss-Newton steps on reweighted residuals.

Source: Hoffmann et al. 2022, arXiv:2203.15556, section 3.3 and appendix D.2 (the objective).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

EXPONENTS = (0.01, 4.0)
"""Smallest and largest exponent."""
# Smallest share of the mean loss that L0 and each term can have; a smaller one is not different
# from zero for any data, and its logarithm would grow without limit.
LEAST_SHARE = 1e-6
ITERATIONS = 120
# A fit has converged if a step reduces the objective by less than this share of it.
CONVERGED = 1e-6
# A fit whose damping is this large cannot be improved.
MOST_DAMPING = 1e6


@dataclass(frozen=True)
class PowerSum:
    """One or many sums of power laws.

    Each feature is divided by its `centre`, so that a coefficient is the contribution of its term
    at the centre of the data.
    """

    centres: Array
    """Geometric means of the features, (terms,)."""
    constant: Array
    """L0, (fits,)."""
    coefficients: Array
    """Contribution of each term at the centre, (fits, terms)."""
    exponents: Array
    """(fits, terms)."""

    def __getitem__(self, index: "int | slice | NDArray[np.int64]") -> "PowerSum":
        """Some of the fits; an integer keeps the dimension of the fits."""
        rows = slice(index, index + 1) if isinstance(index, int) else index
        return PowerSum(
            self.centres, self.constant[rows], self.coefficients[rows], self.exponents[rows]
        )

    def predict(self, features: Array) -> Array:
        """The value of each fit at each point.

        Args:
            features: (points, terms).

        Returns:
            (fits, points).
        """
        return self.constant[:, None] + self.terms(features).sum(-1)

    def terms(self, features: Array) -> Array:
        """The contribution of each term, (fits, points, terms)."""
        logs = np.log(features / self.centres)
        return self.coefficients[:, None, :] * np.exp(-self.exponents[:, None, :] * logs)

    def scaled_coefficients(self) -> Array:
        """The coefficients for features that are not divided by their centres, (fits, terms)."""
        return self.coefficients * self.centres**self.exponents


def fit_power_sums(
    features: Array, values: Array, weights: Array, starts: Array, *, delta: float
) -> tuple[PowerSum, Array]:
    """Fit one sum of power laws per row of `weights`.

    Args:
        features: positive, (points, terms).
        values: positive, (points,).
        weights: weight of each point in each fit, (fits, points); 0 leaves it out.
        starts: log L0, log coefficients at the centre, and log exponents, (fits, 1 + 2 terms).
        delta: difference of logarithms beyond which Huber's loss is linear.

    Returns:
        The fits, and the value of the objective of each, (fits,).
    """
    centres = np.exp(np.log(features).mean(0))
    fits = _Fits(np.log(features / centres), np.log(values), weights, starts, delta)
    for _ in range(ITERATIONS):
        if not fits.improve():
            break
    terms = features.shape[1]
    constant, coefficients, exponents = np.split(np.exp(fits.parameters), [1, 1 + terms], axis=1)
    return PowerSum(centres, constant[:, 0], coefficients, exponents), fits.objective


class _Fits:
    """Fits that take their steps together; those that have converged are left alone."""

    def __init__(
        self, logs: Array, targets: Array, weights: Array, starts: Array, delta: float
    ) -> None:
        self.logs, self.targets, self.weights, self.delta = logs, targets, weights, delta
        self.low, self.high = _bounds(np.exp(targets), logs.shape[1])
        self.parameters = np.clip(starts, self.low, self.high)
        self.objective = np.full(len(starts), np.inf)
        # Of the fits that have not converged:
        self.active = np.arange(len(starts))
        self.damping = np.full(len(starts), 1e-2)
        self.proposed = self.parameters.copy()
        self.residuals, self.jacobian = _linearised(self.parameters, logs, targets)

    def improve(self) -> bool:
        """Judge the proposed parameters and propose new ones; whether any fit is left."""
        residuals, jacobian = _linearised(self.proposed, self.logs, self.targets)
        before = self.objective[self.active]
        now = _huber(residuals, self.weights[self.active], self.delta)
        is_better = now <= before
        self.parameters[self.active[is_better]] = self.proposed[is_better]
        self.objective[self.active] = np.where(is_better, now, before)
        has_converged = is_better & np.isfinite(before) & (before <= (1 + CONVERGED) * now)
        rest = ~(has_converged | (self.damping > MOST_DAMPING))
        self.residuals = np.where(is_better[:, None], residuals, self.residuals)[rest]
        self.jacobian = np.where(is_better[:, None, None], jacobian, self.jacobian)[rest]
        damping = np.where(is_better, self.damping / 3, self.damping * 4)
        self.damping, self.active = np.maximum(damping, 1e-9)[rest], self.active[rest]
        if not len(self.active):
            return False
        step = _step(
            self.residuals, self.jacobian, self.weights[self.active], self.damping, self.delta
        )
        self.proposed = np.clip(self.parameters[self.active] + step, self.low, self.high)
        return True


def starting_points(values: Array, num_terms: int, number: int, seed: int = 0) -> Array:
    """Different starting points: shares of L0 and of each term, and exponents.

    Returns:
        (number, 1 + 2 num_terms), as `fit_power_sums` expects them.
    """
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.full(1 + num_terms, 1.0), number)
    shares[:, 0] = np.maximum(shares[:, 0], 0.05)
    exponents = np.exp(random.uniform(np.log(0.05), np.log(1.5), (number, num_terms)))
    mean = float(np.mean(values))
    return np.concatenate([np.log(np.maximum(shares, 1e-3) * mean), np.log(exponents)], axis=1)


def parameters_of(fits: PowerSum) -> Array:
    """The parameters of fits as starting points for others, (fits, 1 + 2 terms)."""
    return np.concatenate(
        [np.log(fits.constant)[:, None], np.log(fits.coefficients), np.log(fits.exponents)], axis=1
    )


def _bounds(values: Array, num_terms: int) -> tuple[Array, Array]:
    mean, least = float(np.mean(values)), float(np.min(values))
    smallest = np.log(LEAST_SHARE * mean)
    low = [smallest] * (1 + num_terms) + [np.log(EXPONENTS[0])] * num_terms
    high = [np.log(least)] + [np.log(10 * mean)] * num_terms + [np.log(EXPONENTS[1])] * num_terms
    return np.array(low), np.array(high)


def _linearised(parameters: Array, logs: Array, targets: Array) -> tuple[Array, Array]:
    """Residuals (fits, points) and their derivatives (fits, points, parameters)."""
    num_terms = logs.shape[1]
    constant = np.exp(parameters[:, 0])[:, None]
    exponents = np.exp(parameters[:, 1 + num_terms :])
    slopes = exponents[:, None, :] * logs
    terms = np.exp(parameters[:, None, 1 : 1 + num_terms] - slopes)
    total = constant + terms.sum(-1)
    shares = terms / total[..., None]
    derivatives = np.concatenate([(constant / total)[..., None], shares, -shares * slopes], axis=-1)
    return np.log(total) - targets, derivatives


def _step(residuals: Array, jacobian: Array, weights: Array, damping: Array, delta: float) -> Array:
    """The damped Gauss-Newton step of each fit, (fits, parameters)."""
    robust = weights * delta / np.maximum(np.abs(residuals), delta)
    weighted = jacobian * robust[..., None]
    normal = weighted.transpose(0, 2, 1) @ jacobian
    gradient = (residuals[:, None, :] @ weighted)[:, 0]
    diagonal = np.einsum("fii->fi", normal)
    extra = damping[:, None] * diagonal + 1e-12
    normal = normal + extra[..., None] * np.eye(normal.shape[-1])
    step = -np.linalg.solve(normal, gradient[..., None])[..., 0]
    return np.clip(step, -2.0, 2.0)


def _huber(residuals: Array, weights: Array, delta: float) -> Array:
    """The objective of each fit, (fits,)."""
    size = np.abs(residuals)
    loss = np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))
    return (weights * loss).sum(-1)
