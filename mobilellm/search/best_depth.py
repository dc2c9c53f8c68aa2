"""The best depth at each size of a ladder: by the fitted law, and directly from the losses."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilellm.search.ladder_runs import LadderRuns
from mobilellm.search.loss_law import FEATURES, LEVEL, LossLaw
from mobilellm.search.power_sum import Array

DRAWS = 2000
FEWEST_DEPTHS = 3
"""Depths without which a parabola through the losses has no vertex."""


@dataclass(frozen=True)
class DepthEstimate:
    """A depth with the ends of its 95 % interval."""

    depth: float
    low: float
    high: float

    def __str__(self) -> str:
        """`3.2 (2.5 to 4.1)`."""
        return f"{self.depth:.1f} ({self.low:.1f} to {self.high:.1f})"


@dataclass(frozen=True)
class BestDepth:
    """The best depth of one size at its largest token budget."""

    body: float
    """Body parameters, the mean over its shapes."""
    tokens: float
    depths: tuple[float, ...]
    """The depths that were trained."""
    losses: tuple[float, ...]
    """The mean loss of each depth, in nats per token."""
    measured: DepthEstimate | None
    """The vertex of a parabola in log depth, within the range of depths; None with fewer than
    three depths."""
    is_flat: bool
    """Whether the losses do not tell a best depth: the interval spans the range of depths, or the
    parabola may open downwards."""
    is_at_edge: bool
    """Whether the vertex is the smallest or largest depth, so that the best may be outside."""
    by_law: DepthEstimate | None
    """The depth with the lowest loss by the law, for shapes of this size; None without a law."""

    def sentence(self) -> str:
        """`3.2 (2.5 to 4.1)`, or that no depth is best."""
        if self.measured is None:
            return "too few depths"
        if self.is_flat:
            return "flat within noise"
        return f"{self.measured}{', at the edge of the depths' if self.is_at_edge else ''}"


def best_depths(runs: LadderRuns, law: LossLaw | None) -> tuple[BestDepth, ...]:
    """The best depth of each size with at least two depths, from small to large sizes.

    The interval of the measured depth contains the noise of the seeds; the spread of the losses
    around the parabola counts as noise too if it is larger. Since the losses of very different
    depths are not exactly a parabola, the interval also contains that of the parabola through the
    lowest loss and its two neighbours.

    Args:
        runs: all runs of the ladder.
        law: the law that was fitted to them, if there is one.
    """
    found = []
    for size in runs.size_names:
        of_size = runs.where(runs.sizes == size)
        longest = of_size.where(of_size.has_most_tokens)
        if len(np.unique(longest.depth)) > 1:
            found.append(_best_depth(longest, runs.seed_deviation, law))
    return tuple(found)


def _best_depth(runs: LadderRuns, seed_deviation: float, law: LossLaw | None) -> BestDepth:
    depths = np.unique(runs.depth)
    means = np.array([runs.loss[runs.depth == depth].mean() for depth in depths])
    counts = np.array([(runs.depth == depth).sum() for depth in depths])
    measured, is_flat, is_at_edge = None, False, False
    if len(depths) >= FEWEST_DEPTHS:
        spread = seed_deviation * means.mean() / np.sqrt(counts)
        measured = _vertex(depths, means, spread)
        first, last = depths[0] * (1 + 1e-9), depths[-1] * (1 - 1e-9)
        is_flat = bool(measured.low <= first and measured.high >= last)
        is_at_edge = bool(measured.depth <= first or measured.depth >= last)
    return BestDepth(
        float(runs.body.mean()), float(runs.tokens.max()), tuple(depths.tolist()),
        tuple(means.tolist()), measured, is_flat, is_at_edge,
        None if law is None else _by_law(law, runs),
    )  # fmt: skip


def _vertex(depths: Array, means: Array, spread: Array) -> DepthEstimate:
    """The vertex of the parabola through all losses, and the interval of `best_depths`."""
    start = min(max(0, int(means.argmin()) - 1), len(depths) - FEWEST_DEPTHS)
    near = slice(start, start + FEWEST_DEPTHS)
    vertex, draws = _vertices(np.log(depths), means, spread)
    _, near_draws = _vertices(np.log(depths[near]), means[near], spread[near])
    ends = [np.quantile(each, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) for each in (draws, near_draws)]
    return DepthEstimate(
        float(np.exp(vertex)), float(np.exp(np.min(ends))), float(np.exp(np.max(ends)))
    )


def _vertices(logs: Array, means: Array, spread: Array) -> tuple[float, Array]:
    """The log depth of the lowest point of the best parabola, and of draws from its distribution.

    If a parabola opens downwards, its lowest point is an end of the range.

    Args:
        logs: logarithms of the depths.
        means: mean loss of each depth.
        spread: standard error of each mean; 0: unknown.
    """
    design = np.stack([np.ones_like(logs), logs, logs**2], axis=1)
    scale = np.where(spread > 0, spread, 1.0)
    weighted = design / scale[:, None]
    coefficients, *_ = np.linalg.lstsq(weighted, means / scale, rcond=None)
    freedom = len(logs) - 3
    squares = (((means - design @ coefficients) / scale) ** 2).sum()
    # Losses that do not lie on a parabola make it as uncertain as noise does, but the few depths
    # tell how much only roughly, so that the draws then follow a t distribution.
    misfit = squares / freedom if freedom > 0 else 0.0
    is_known = bool((spread > 0).all())
    random = np.random.default_rng(0)
    covariance = np.linalg.pinv(weighted.T @ weighted)
    drawn = random.multivariate_normal(np.zeros(3), covariance, DRAWS, method="svd")
    if freedom > 0 and (misfit > 1.0 or not is_known):
        drawn *= np.sqrt(misfit * freedom / random.chisquare(freedom, DRAWS))[:, None]
    elif not is_known:
        drawn *= 0.0
    drawn += coefficients
    lowest = _lowest(np.concatenate([coefficients[None], drawn]), logs[0], logs[-1])
    return float(lowest[0]), lowest[1:]


def _lowest(parabolas: NDArray[Any], first: float, last: float) -> Array:
    """Where each parabola (constant, slope, curvature) is lowest between two ends."""
    _, slope, curvature = parabolas.T
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = np.clip(-slope / (2 * curvature), first, last)
    falls = slope * (last - first) + curvature * (last**2 - first**2) < 0
    return np.where(curvature > 0, vertex, np.where(falls, last, first))


def _by_law(law: LossLaw, runs: LadderRuns) -> DepthEstimate:
    values = law_depth(law, runs)
    low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return DepthEstimate(float(values[0]), float(low), float(high))


def law_depth(law: LossLaw, runs: LadderRuns) -> Array:
    """The best depth of a size by the law, and by each of its resampled fits.

    The body parameters of the shapes are M = k D W^2 with nearly constant k, so that of all shapes
    of size M the sum a D^-alpha + b W^-beta is lowest at
    D = (2 alpha a (M / k)^(beta / 2) / (beta b))^(1 / (alpha + beta / 2)).

    Args:
        law: the fitted law.
        runs: the runs of one size.

    Returns:
        (1 + samples,), not limited to the depths that were trained.
    """
    depth, width = FEATURES.index("depth"), FEATURES.index("width")
    area = float(np.mean(runs.depth * runs.width**2))
    found = []
    for fits in (law.fit, law.samples):
        coefficients, alpha, beta = (
            fits.scaled_coefficients(), fits.exponents[:, depth], fits.exponents[:, width],
        )  # fmt: skip
        ratio = 2 * alpha * coefficients[:, depth] / (beta * coefficients[:, width])
        found.append((ratio * area ** (beta / 2)) ** (1 / (alpha + beta / 2)))
    return np.concatenate(found)
