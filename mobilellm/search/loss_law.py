"""The loss as a function of depth, width and training tokens, fitted to the runs of a ladder.

L(D, W, N) = L0 + a D^-alpha + b W^-beta + c N^-gamma, with D the layers that run per token, W the
width of the residual stream, and N the training tokens. The simpler form L0 + A M^-x + c N^-gamma,
with M the body parameters, is fitted as well: depth and width are worth their two terms only if
they predict runs better that were left out of the fit.

Sources: Fu et al. 2025, Nemotron-Flash, arXiv:2511.18890, section 3 (the form); Hoffmann et al.
2022, arXiv:2203.15556, section 3.3 (the simpler form, and the fit).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mobilellm.search.ladder_runs import LadderRuns
from mobilellm.search.power_sum import (
    Array,
    PowerSum,
    fit_power_sums,
    parameters_of,
    starting_points,
)

FEATURES = ("depth", "width", "tokens")
SIMPLE_FEATURES = ("body", "tokens")
STARTS = 48
SAMPLES = 200
DRAWS = 32
"""Deviations that are drawn per resampled fit."""
LEVEL = 0.95
DECIMALS = 4
# Where Huber's loss becomes linear, in standard deviations of the noise: least squares loses 5 % of
# its precision for normal noise (Huber 1964). Without repeated seeds, the value of Hoffmann et al.
HUBER_IN_DEVIATIONS = 1.345
HUBER_WITHOUT_NOISE = 1e-3
NO_FLOOR = 0.01
"""An irreducible loss L0 below this, in nats per token, counts as none."""
FEWEST = 3
"""Different depths, widths, tokens and sizes without which the law is not identified."""
DETERMINED = 3.0
"""L0 or an exponent is not determined if the ends of its interval differ by more than this factor.
"""


@dataclass(frozen=True)
class Prediction:
    """A predicted loss in nats per token, with the interval of a run's loss."""

    loss: float
    low: float
    high: float

    def __str__(self) -> str:
        """`2.345 (2.331 to 2.360)`."""
        return f"{self.loss:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class LossLaw:
    """A fitted law with its uncertainty."""

    runs: LadderRuns
    """The runs that it was fitted to."""
    fit: PowerSum
    """One fit, with the features depth, width and tokens."""
    samples: PowerSum
    """Fits to resampled runs: shapes are drawn with replacement within each size, and seeds within
    each shape. The horizons of a run stay together, since they are not independent."""
    shape_deviation: float
    """Standard deviation of log loss of a shape around the law."""
    seed_deviation: float
    """Standard deviation of log loss of a seed around its shape's mean; 0 with one seed."""

    def predict(self, points: Array) -> Array:
        """The expected loss at each point.

        Args:
            points: depth, width and tokens, (points, 3).

        Returns:
            (points,), in nats per token.
        """
        return self.fit.predict(points)[0]

    def prediction(self, depth: float, width: float, tokens: float) -> Prediction:
        """The loss of one run with its 95 % interval: of the law, the shape and the seed."""
        point = np.array([[depth, width, tokens]], float)
        logs = np.log(self.samples.predict(point)[:, 0])
        random = np.random.default_rng(0)
        spread = float(np.hypot(self.shape_deviation, self.seed_deviation))
        draws = logs[:, None] + spread * random.standard_normal((len(logs), DRAWS))
        low, high = np.exp(np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
        return Prediction(float(self.predict(point)[0]), float(low), float(high))

    def difference(self, first: Sequence[float], second: Sequence[float]) -> Prediction:
        """The expected loss of one shape minus that of another, with its 95 % interval.

        The interval contains that of the law and the deviations of both shapes from it.

        Args:
            first: depth, width and tokens.
            second: the same of another shape.
        """
        both = np.array([first, second], float)
        mean, found = self.predict(both), self.samples.predict(both)
        random = np.random.default_rng(0)
        spread = self.shape_deviation * np.hypot(*mean)
        draws = (found[:, 0] - found[:, 1])[:, None] + spread * random.standard_normal(
            (len(found), DRAWS)
        )
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Prediction(float(mean[0] - mean[1]), float(low), float(high))

    @cached_property
    def in_sample_error(self) -> float:
        """Mean absolute error of the means of each shape and number of tokens, relative."""
        return relative_error(self.runs, self.predict(self.runs.features(FEATURES)))

    def parameters(self) -> dict[str, tuple[float, float, float]]:
        """Each parameter with the ends of its 95 % interval: L0, a, alpha, b, beta, c, gamma.

        They are rounded to 4 decimals: fits work with logarithms, so an L0 of 0 is only approached.
        """
        names = ("L0", "a", "alpha", "b", "beta", "c", "gamma")
        values, draws = (_in_order(fits) for fits in (self.fit, self.samples))
        ends = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        rounded = np.stack([values[0], *ends]).round(DECIMALS)
        return {
            name: (float(rounded[0, i]), float(rounded[1, i]), float(rounded[2, i]))
            for i, name in enumerate(names)
        }

    @property
    def is_without_floor(self) -> bool:
        """Whether the irreducible loss L0 is 0 in all resampled fits, up to `NO_FLOOR`."""
        return self.parameters()["L0"][2] < NO_FLOOR

    @property
    def undetermined(self) -> tuple[str, ...]:
        """Those of L0, alpha, beta and gamma that the runs do not determine; see `DETERMINED`."""
        found = self.parameters()
        names = ("alpha", "beta", "gamma") if self.is_without_floor else (
            "L0", "alpha", "beta", "gamma"
        )  # fmt: skip
        return tuple(name for name in names if found[name][2] > DETERMINED * found[name][1])

    def outside(self, depth: float, width: float, tokens: float, body: float) -> dict[str, float]:
        """By which factor each quantity is outside the fitted range; 1 inside."""
        given = {"depth": depth, "width": width, "tokens": tokens, "body": body}
        factors = {}
        for name, value in given.items():
            known = self.runs.features((name,))
            factors[name] = max(1.0, value / float(known.max()), float(known.min()) / value)
        return factors


def fit_loss_law(runs: LadderRuns, *, samples: int = SAMPLES) -> LossLaw:
    """Fit the law in depth, width and tokens.

    Args:
        runs: the losses of finished runs.
        samples: number of resampled fits for the intervals.

    Raises:
        ValueError: the runs do not identify the law; the message says what is missing.
    """
    missing = missing_for_law(runs)
    if missing:
        raise ValueError(f"the runs do not identify a law: {'; '.join(missing)}")
    points, delta = runs.features(FEATURES), huber_delta(runs)
    fit = best_fit(runs, FEATURES, np.ones(len(runs.loss)))
    weights = resampled_weights(runs, samples)
    starts = np.repeat(parameters_of(fit), samples, axis=0)
    drawn, _ = fit_power_sums(points, runs.loss, weights, starts, delta=delta)
    residuals = np.log(runs.loss) - np.log(fit.predict(points)[0])
    by_shape = np.array([residuals[runs.shapes == shape].mean() for shape in runs.shape_names])
    freedom = max(1.0, len(by_shape) - 7.0)
    return LossLaw(
        runs, fit, drawn, float(np.sqrt((by_shape**2).sum() / freedom)), runs.seed_deviation
    )


def missing_for_law(runs: LadderRuns, *, fewest_sizes: int = FEWEST) -> list[str]:
    """What the runs lack to identify the law, in clauses; empty if nothing is missing.

    Args:
        runs: the losses of finished runs.
        fewest_sizes: number of sizes that are needed.
    """
    missing = []
    for name, kind in (("depth", "depths"), ("width", "widths"), ("tokens", "token budgets")):
        found = len(np.unique(runs.features((name,))))
        if found < FEWEST:
            missing.append(f"{found} different {kind} instead of at least {FEWEST}")
    sizes = len(runs.size_names)
    if sizes < fewest_sizes:
        missing.append(f"{sizes} sizes (body parameters) instead of at least {fewest_sizes}")
    lengths = [len(np.unique(runs.tokens[runs.shapes == shape])) for shape in runs.shape_names]
    if max(lengths, default=0) < 2:
        missing.append(
            "no shape with two token budgets, so that the effect of tokens cannot be told from "
            "that of size (horizons=[0.25,0.5])"
        )
    depths = [len(np.unique(runs.depth[runs.sizes == size])) for size in runs.size_names]
    if sum(count >= FEWEST for count in depths) < 2:
        missing.append(f"fewer than 2 sizes with at least {FEWEST} depths")
    return missing


def relative_error(runs: LadderRuns, predicted: Array) -> float:
    """Mean absolute relative error of the mean loss of each shape and number of tokens."""
    return float(cell_errors(runs, predicted).mean())


def cell_errors(runs: LadderRuns, predicted: Array) -> Array:
    """Absolute relative error of the mean loss of each shape and number of tokens, (cells,)."""
    cells = runs.cells
    return np.array(
        [abs(predicted[cells == c].mean() / runs.loss[cells == c].mean() - 1) for c in set(cells)]
    )


def resampled_weights(runs: LadderRuns, number: int, seed: int = 0) -> Array:
    """Weights of the runs in each resample, (number, runs).

    Of the n shapes of a size, n - 1 are drawn with replacement, since n would make the variance too
    small by (n - 1) / n, and for each drawn shape its seeds; all horizons of a seed have the same
    weight. Source: Rao and Wu 1988, JASA 83 (rescaled bootstrap).
    """
    random = np.random.default_rng(seed)
    weights = np.zeros((number, len(runs.loss)))
    for size in runs.size_names:
        shapes = np.unique(runs.shapes[runs.sizes == size])
        size_drawn = max(1, len(shapes) - 1)
        share = np.full(len(shapes), 1 / len(shapes))
        counts = random.multinomial(size_drawn, share, number)
        for shape, count in zip(shapes, counts.T, strict=True):
            of_shape = runs.shapes == shape
            seeds = np.unique(runs.seeds[of_shape])
            share = np.full(len(seeds), 1 / len(seeds))
            drawn = random.multinomial(count * len(seeds), share)
            for index, one in enumerate(seeds):
                weights[:, of_shape & (runs.seeds == one)] = drawn[:, index, None] * (
                    len(shapes) / size_drawn
                )
    return weights


def best_fit(runs: LadderRuns, names: Sequence[str], weights: NDArray[np.float64]) -> PowerSum:
    """The best of the fits from all starting points.

    Args:
        runs: the losses to fit.
        names: of the features, such as `FEATURES` or `SIMPLE_FEATURES`.
        weights: of the runs, (runs,).
    """
    points = runs.features(names)
    starts = starting_points(runs.loss, len(names), STARTS)
    tiled = np.repeat(weights[None, :], STARTS, axis=0)
    fits, objective = fit_power_sums(points, runs.loss, tiled, starts, delta=huber_delta(runs))
    return fits[int(objective.argmin())]


def huber_delta(runs: LadderRuns) -> float:
    """Where Huber's loss of the differences in log loss becomes linear."""
    return max(HUBER_WITHOUT_NOISE, HUBER_IN_DEVIATIONS * runs.seed_deviation)


def _in_order(fits: PowerSum) -> Array:
    """L0, then coefficient and exponent of each term, (fits, parameters)."""
    pairs = np.stack([fits.scaled_coefficients(), fits.exponents], axis=-1)
    return np.concatenate([fits.constant[:, None], pairs.reshape(len(fits.constant), -1)], axis=1)
