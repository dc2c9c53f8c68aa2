"""Simulated sweeps without differences (wrong verdicts) and with one (power)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from mobilellm.report.statistics.block_design import BlockDesign, Floats
from mobilellm.report.statistics.sequential import look_levels
from mobilellm.report.statistics.simultaneous import largest_statistic
from scripts.benchmarks.statistics_methods import LEVEL, METHODS

Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]


def _normal(random: np.random.Generator, size: tuple[int, ...]) -> Floats:
    return random.standard_normal(size)


def _heavy(random: np.random.Generator, size: tuple[int, ...]) -> Floats:
    return random.standard_t(3, size)


def _outliers(random: np.random.Generator, size: tuple[int, ...]) -> Floats:
    return random.standard_normal(size) * np.where(random.random(size) < 0.1, 10, 1)


def _skewed(random: np.random.Generator, size: tuple[int, ...]) -> Floats:
    return np.exp(random.standard_normal(size))


@dataclass(frozen=True)
class Condition:
    """How the noise of a sweep is made."""

    name: str
    spread: Callable[[int], Floats] = field(default=np.ones)
    """Standard deviation of each shape, given their number."""
    draw: Draw = _normal
    common: float = 0.0
    """Standard deviation of an effect of the seed on all shapes."""
    opposed: float = 0.0
    """Standard deviation of an effect of the seed that grows from the first to the last shape."""
    missing: int = 0
    """Runs that are missing, at random places."""

    def losses(self, random: np.random.Generator, sweeps: int, seeds: int, shapes: int) -> Floats:
        """(sweeps, seeds, shapes)."""
        noise = self.draw(random, (sweeps, seeds, shapes)) * self.spread(shapes)
        noise += self.common * random.standard_normal((sweeps, seeds, 1))
        slope = np.linspace(-1, 1, shapes)
        return noise + self.opposed * random.standard_normal((sweeps, seeds, 1)) * slope


def _one(ratio: float) -> Callable[[int], Floats]:
    return lambda shapes: np.where(np.arange(shapes) == 0, ratio, 1.0)


CONDITIONS = (
    Condition("equal variances"),
    Condition("one shape spreads 3 times as much", _one(3)),
    Condition("one shape spreads 10 times as much", _one(10)),
    Condition("spreads from 1 to 4", lambda shapes: np.linspace(1, 4, shapes)),
    Condition("a common effect of the seed, 5 times the noise", common=5),
    Condition("a seed favours deep or wide, 3 times the noise", opposed=3),
    Condition("two runs missing", missing=2),
    Condition("two runs missing, one shape spreads 3 times as much", _one(3), missing=2),
    Condition("heavy tails (t, 3 degrees of freedom)", draw=_heavy),
    Condition("outliers (a tenth of the runs, 10 times the noise)", draw=_outliers),
    Condition("skewed (log-normal)", draw=_skewed),
)  # fmt: skip
PLACES = 3
"""Different places of missing runs per condition."""


def wrong_verdicts(
    condition: Condition, seeds: int, shapes: int, sweeps: int, start: int, names: list[str]
) -> dict[str, float]:
    """Share of the sweeps with a wrong verdict, by method; no shapes differ."""
    random = np.random.default_rng(start)
    counts = dict.fromkeys(names, 0)
    designs = list(_designs(condition, seeds, shapes, random))
    for design in designs:
        losses = condition.losses(random, sweeps // len(designs), seeds, shapes)
        for name in names:
            counts[name] += int(METHODS[name](design, losses).any(1).sum())
    return {name: count / (sweeps // len(designs) * len(designs)) for name, count in counts.items()}


def _designs(
    condition: Condition, seeds: int, shapes: int, random: np.random.Generator
) -> Iterator[BlockDesign]:
    for _ in range(PLACES if condition.missing else 1):
        runs = np.ones((seeds, shapes), dtype=bool)
        while runs.sum() > seeds * shapes - condition.missing:
            seed, shape = random.integers(seeds), random.integers(shapes)
            # With a single run nothing can be said about a shape.
            if runs[:, shape].sum() > 2:
                runs[seed, shape] = False
        yield _design(runs)


def _design(runs: np.ndarray) -> BlockDesign:
    pairs = [
        (first, second)
        for first, second in combinations(range(runs.shape[1]), 2)
        if (runs[:, first] & runs[:, second]).sum() > 1
    ]
    return BlockDesign(runs, tuple(pairs))


def smallest_difference(name: str, seeds: int, shapes: int, sweeps: int, start: int) -> float:
    """The difference of one shape from the equal others that is found with 80 % power.

    In standard deviations of a run; the power is that of a pair, over all pairs that differ.
    """
    random = np.random.default_rng(start)
    design = _design(np.ones((seeds, shapes), dtype=bool))
    noise = random.standard_normal((sweeps, seeds, shapes))
    differ = [place for place, pair in enumerate(design.pairs) if 0 in pair]
    low, high = 0.0, 200.0
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        losses = noise.copy()
        losses[:, :, 0] += middle
        found = METHODS[name](design, losses)[:, differ].mean()
        low, high = (middle, high) if found < 0.8 else (low, middle)
    return high


def sequential_errors(
    condition: Condition, most: int, shapes: int, sweeps: int, start: int
) -> dict[str, float]:
    """Share of the sweeps with a wrong verdict at any look from 3 seeds to `most`.

    With levels that share the error between the looks, and with 5 % at each look.
    """
    random = np.random.default_rng(start)
    losses = condition.losses(random, sweeps, most, shapes)
    spent, naive = np.zeros(sweeps, dtype=bool), np.zeros(sweeps, dtype=bool)
    for seeds in range(3, most + 1):
        design = _design(np.ones((seeds, shapes), dtype=bool))
        largest = design.statistics(losses[:, :seeds]).max(1)
        null = largest_statistic(design)
        spent |= largest > null.limit(look_levels(most)[seeds])
        naive |= largest > null.limit(LEVEL)
    return {"shared": float(spent.mean()), "5 % at each look": float(naive.mean())}
