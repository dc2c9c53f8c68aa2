"""Shapes × seeds as a block design: least squares with an effect per shape and per seed.

A seed moves all shapes together (the same data order), so it is a block. Runs may be missing. A
difference of two shapes is estimated by least squares; its variance is the mean of two estimates:
the residual variance of all runs, and that of the pair's own differences. The first has many
degrees of freedom, the second respects shapes whose losses spread more than others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NEGLIGIBLE = 1e-12
"""Numbers below this share of the largest loss are rounding errors."""


@dataclass(frozen=True)
class BlockDesign:
    """Which runs exist, and the pairs of shapes that are compared."""

    runs: NDArray[np.bool_]
    """(seeds, shapes): whether the run exists."""
    pairs: tuple[tuple[int, int], ...]
    """Indices of the shapes; every pair has at least two common seeds."""

    @property
    def num_seeds(self) -> int:
        """Number of blocks."""
        return self.runs.shape[0]

    @property
    def num_shapes(self) -> int:
        """Number of treatments."""
        return self.runs.shape[1]

    @property
    def is_complete(self) -> bool:
        """Whether every shape was trained with every seed."""
        return bool(self.runs.all())

    @cached_property
    def degrees(self) -> int:
        """Residual degrees of freedom of all runs."""
        if self.is_complete:
            return (self.num_seeds - 1) * (self.num_shapes - 1)
        return int(self.runs.sum()) - int(np.linalg.matrix_rank(self._effects))

    @cached_property
    def own_degrees(self) -> NDArray[np.int_]:
        """(pairs): degrees of freedom of each pair's own differences, its common seeds less 1."""
        first, second = self._ends
        return (self.runs[:, first] & self.runs[:, second]).sum(0) - 1

    @cached_property
    def factors(self) -> Floats:
        """(pairs): variance of each estimated difference at a noise variance of 1 per run."""
        if self.is_complete:
            return np.full(len(self.pairs), 2 / self.num_seeds)
        return (self._weights**2).sum(1)

    @cached_property
    def scales(self) -> Floats:
        """(pairs): the t quantile of the own degrees, by which a pair's statistic is divided.

        Without it, a pair with few common seeds would dominate the largest statistic.
        """
        from scipy.special import stdtrit

        return np.asarray(stdtrit(self.own_degrees, 0.975), dtype=float)

    def differences(self, losses: Floats) -> Floats:
        """Return (sweeps, pairs): first minus second, by least squares.

        Args:
            losses: (sweeps, seeds, shapes); those of missing runs are ignored.
        """
        return losses[:, self.runs] @ self._weights.T

    def variances(self, losses: Floats) -> tuple[Floats, Floats]:
        """Return residual variances (sweeps), and variances of differences (sweeps, pairs).

        The latter are halved, so that both estimate the variance of one run.
        """
        observed = losses[:, self.runs]
        residuals = np.zeros_like(losses)
        residuals[:, self.runs] = observed - (observed @ self._solution.T) @ self._effects.T
        pooled = (residuals**2).sum((1, 2)) / self.degrees
        first, second = self._ends
        there = self.runs.astype(float)
        turned = residuals.swapaxes(1, 2)
        sums = turned @ there
        sums = sums[:, first, second] - sums[:, second, first]
        squares = turned**2 @ there
        squares = squares[:, first, second] + squares[:, second, first]
        squares -= 2 * (turned @ residuals)[:, first, second]
        own = (squares - sums**2 / (self.own_degrees + 1)) / self.own_degrees
        return pooled, np.maximum(own, 0) / 2

    def errors(self, losses: Floats) -> Floats:
        """Return (sweeps, pairs): standard errors of the differences; 0 for rounding errors."""
        errors = self._errors(*self.variances(losses))
        return np.where(errors <= self._negligible(losses), 0, errors)

    def statistics(self, losses: Floats) -> Floats:
        """Return (sweeps, pairs): sizes of the differences in standard errors, over `scales`."""
        differences = np.abs(self.differences(losses))
        errors = np.maximum(self.errors(losses), np.finfo(float).tiny)
        is_equal = differences <= self._negligible(losses)
        return np.where(is_equal, 0, differences / errors) / self.scales

    def statistics_of_moments(self, means: Floats, scatter: Floats) -> Floats:
        """Return the same for a complete design, from sufficient statistics.

        Args:
            means: (sweeps, shapes), over seeds.
            scatter: (sweeps, shapes, shapes): sums over seeds of products of deviations.
        """
        first, second = self._ends
        diagonal = np.einsum("bii->bi", scatter)
        pooled = (diagonal.sum(1) - scatter.sum((1, 2)) / self.num_shapes) / self.degrees
        own = diagonal[:, first] + diagonal[:, second] - 2 * scatter[:, first, second]
        errors = self._errors(pooled, own / (2 * self.own_degrees))
        return np.abs(means[:, first] - means[:, second]) / (errors * self.scales)

    def _negligible(self, losses: Floats) -> Floats:
        return NEGLIGIBLE * np.abs(losses[:, self.runs]).max(1, keepdims=True)

    def _errors(self, pooled: Floats, own: Floats) -> Floats:
        return np.sqrt((pooled[:, None] + own) / 2 * self.factors)

    @cached_property
    def _ends(self) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
        first, second = np.array(self.pairs, dtype=int).reshape(-1, 2).T
        return first, second

    @cached_property
    def _effects(self) -> Floats:
        """(runs, shapes + seeds): which effects a run has."""
        seeds, shapes = np.nonzero(self.runs)
        return np.hstack([np.eye(self.num_shapes)[shapes], np.eye(self.num_seeds)[seeds]])

    @cached_property
    def _solution(self) -> Floats:
        """(shapes + seeds, runs): least squares of smallest norm."""
        return np.asarray(np.linalg.pinv(self._effects), dtype=np.float64)

    @cached_property
    def _weights(self) -> Floats:
        """(pairs, runs): weight of each run in each difference."""
        first, second = self._ends
        return self._solution[first] - self._solution[second]


@dataclass(frozen=True)
class Sweep:
    """The losses of comparable shapes that can be compared, as arrays."""

    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    losses: Floats
    """(seeds, shapes), 0 where a run is missing."""
    design: BlockDesign


def sweep_of(
    losses: Mapping[str, Mapping[int, float]],
    pairs: Sequence[tuple[str, str]],
    least_common: int = 2,
) -> Sweep | None:
    """Return the block design of some shapes; None if no pair has enough common seeds.

    A seed with one shape, and a shape with one run, say nothing about differences and are left out.

    Args:
        losses: by label and seed.
        pairs: of labels that are to be compared.
        least_common: seeds that the two shapes of a pair must have in common.
    """
    kept = {label: dict(by_seed) for label, by_seed in losses.items()}
    while True:
        counts: dict[int, int] = {}
        for by_seed in kept.values():
            for seed in by_seed:
                counts[seed] = counts.get(seed, 0) + 1
        trimmed = {
            label: {seed: loss for seed, loss in by_seed.items() if counts[seed] > 1}
            for label, by_seed in kept.items()
        }
        trimmed = {label: by_seed for label, by_seed in trimmed.items() if len(by_seed) > 1}
        if trimmed == kept:
            break
        kept = trimmed
    labels = tuple(kept)
    seeds = tuple(sorted({seed for by_seed in kept.values() for seed in by_seed}))
    places = {label: place for place, label in enumerate(labels)}
    compared = tuple(
        (places[first], places[second])
        for first, second in pairs
        if first in places
        and second in places
        and len(kept[first].keys() & kept[second].keys()) >= least_common
    )
    if not compared:
        return None
    runs = np.array([[seed in kept[label] for label in labels] for seed in seeds])
    values = np.array([[kept[label].get(seed, 0.0) for label in labels] for seed in seeds])
    return Sweep(labels, seeds, values, BlockDesign(runs, compared))
