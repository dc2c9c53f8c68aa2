"""The distribution of the largest statistic over all pairs, under the least favourable noise.

One limit holds for all pairs at once. It uses that differences of the same shapes and seeds are
correlated, and it is the largest over patterns of noise (`noise_patterns`): a shape that spreads
much more than the others makes no more wrong verdicts. Simulated with fixed random numbers; exact
for two shapes, where it is the paired t test.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from mobilellm.report.statistics.block_design import BlockDesign, Floats
from mobilellm.report.statistics.noise_patterns import mild_patterns, noise_patterns

MOST_SWEEPS, FEWEST_SWEEPS = 20_000, 1_000
NUMBERS = 1_200_000
"""Simulated numbers per pattern, unless that leaves too few sweeps."""
LIGHT_DEGREES = 4
"""From this number of own degrees of freedom, the largest statistics have lighter tails, and fewer
sweeps give as exact a limit."""
QUICK_SHARE = 4
"""A quick simulation, and one of light tails, has this part of the numbers and sweeps."""
MANY_SEEDS = 8
"""From this number of seeds, the mild patterns have nearly the largest limits."""
DECISIVE, MORE, USUAL_LEVEL = 3, 4, 0.05
"""The patterns with the largest limits at the usual level get this many times as many sweeps more,
so that the largest of the limits is not large by chance."""
NUMBERS_AT_ONCE = 2_000_000
RANDOM_SEED = 2004


@dataclass(frozen=True)
class LargestStatistic:
    """The null distribution of the largest of `BlockDesign.statistics`."""

    maxima: tuple[Floats, ...]
    """For each pattern of noise, the sorted values of the simulated sweeps."""

    def limit(self, level: float) -> float:
        """Return the value that the largest statistic exceeds with at most this probability.

        Infinite if too few sweeps were simulated for this level.
        """
        return max(_limit(values, level) for values in self.maxima)

    def p_values(self, statistics: Floats) -> Floats:
        """Return the probabilities that the largest statistic reaches these values."""
        shares = [
            (len(values) - np.searchsorted(values, statistics) + 1) / (len(values) + 1)
            for values in self.maxima
        ]
        return np.max(shares, axis=0)


@dataclass(frozen=True)
class PairedT:
    """The same for the only pair of two shapes: Student's t distribution."""

    degrees: int

    @cached_property
    def _scale(self) -> float:
        from scipy.special import stdtrit

        return float(stdtrit(self.degrees, 0.975))

    def limit(self, level: float) -> float:
        """Return the value that the statistic exceeds with this probability."""
        from scipy.special import stdtrit

        return -float(stdtrit(self.degrees, level / 2)) / self._scale

    def p_values(self, statistics: Floats) -> Floats:
        """Return the probabilities that the statistic reaches these values."""
        from scipy.special import stdtr

        return 2 * stdtr(self.degrees, -statistics * self._scale)


def largest_statistic(design: BlockDesign, *, is_quick: bool = False) -> LargestStatistic | PairedT:
    """Return the distribution for a design; it is simulated once.

    Args:
        design: runs and pairs.
        is_quick: simulate less, for estimates of power.
    """
    if design.num_shapes == 2:
        return PairedT(int(design.own_degrees[0]))
    return _simulated(design.runs.tobytes(), design.runs.shape, design.pairs, is_quick)


@lru_cache(maxsize=256)
def _simulated(
    runs: bytes, shape: tuple[int, int], pairs: tuple[tuple[int, int], ...], is_quick: bool
) -> LargestStatistic:
    design = BlockDesign(np.frombuffer(runs, dtype=bool).reshape(shape), pairs)
    is_heavy = min(design.own_degrees) < LIGHT_DEGREES
    share = QUICK_SHARE if is_quick or not is_heavy else 1
    count = min(MOST_SWEEPS, NUMBERS // (share * _size(design)))
    count = max(count, FEWEST_SWEEPS // share)
    is_mild = is_quick and design.num_seeds >= MANY_SEEDS
    patterns = list(mild_patterns(design) if is_mild else noise_patterns(design))
    maxima = [simulated_maxima(design, loadings, count) for loadings in patterns]
    if is_quick or not is_heavy:
        return LargestStatistic(tuple(np.sort(values) for values in maxima))
    limits = [float(np.quantile(values, 1 - USUAL_LEVEL)) for values in maxima]
    for place in np.argsort(limits)[-DECISIVE:]:
        more = simulated_maxima(design, patterns[place], MORE * count, RANDOM_SEED + 1)
        maxima[place] = np.concatenate([maxima[place], more])
    return LargestStatistic(tuple(np.sort(values) for values in maxima))


def _limit(values: Floats, level: float) -> float:
    exceeding = int(level * (len(values) + 1)) - 1
    return math.inf if exceeding < 0 else float(values[len(values) - exceeding - 1])


def simulated_maxima(
    design: BlockDesign, loadings: Floats, count: int, seed: int = RANDOM_SEED
) -> Floats:
    """Draw the largest statistics of `count` sweeps of shapes that do not differ."""
    random = np.random.default_rng(seed)
    statistics = _of_complete if design.is_complete else _of_incomplete
    found, left = [], count
    while left:
        number = min(left, max(1, NUMBERS_AT_ONCE // _size(design)))
        found.append(statistics(design, loadings, number, random).max(1))
        left -= number
    return np.concatenate(found)


def _of_incomplete(
    design: BlockDesign, loadings: Floats, number: int, random: np.random.Generator
) -> Floats:
    sources = random.standard_normal((number, design.num_seeds, loadings.shape[1]))
    return design.statistics(sources @ loadings.T)


def _of_complete(
    design: BlockDesign, loadings: Floats, number: int, random: np.random.Generator
) -> Floats:
    """Draw means and scatter instead of runs, which takes no longer with more seeds."""
    num_sources, degrees = loadings.shape[1], design.num_seeds - 1
    means = random.standard_normal((number, num_sources)) @ loadings.T / np.sqrt(design.num_seeds)
    if degrees <= num_sources:
        roots = random.standard_normal((number, degrees, num_sources))
    else:
        # Bartlett 1933: the triangular root of a Wishart matrix.
        roots = np.triu(random.standard_normal((number, num_sources, num_sources)), 1)
        diagonal = np.arange(num_sources)
        roots[:, diagonal, diagonal] = np.sqrt(
            random.chisquare(degrees - diagonal, (number, num_sources))
        )
    roots = roots @ loadings.T
    return design.statistics_of_moments(means, roots.swapaxes(1, 2) @ roots)


def _size(design: BlockDesign) -> int:
    """Return how many numbers one simulated sweep takes."""
    numbers = len(design.pairs) + design.num_shapes**2
    return numbers if design.is_complete else numbers + design.runs.size
