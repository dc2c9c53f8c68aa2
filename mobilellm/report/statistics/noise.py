"""The noise of the runs, and how many seeds a difference takes."""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np

from mobilellm.report.statistics.block_design import BlockDesign, Sweep
from mobilellm.report.statistics.simultaneous import largest_statistic

POWER = 0.8
"""The chance with which a difference is to be found."""
MOST_SEEDS = 200
"""More seeds are not proposed."""
FEW_SEEDS = 4
"""Up to this number, the limit is simulated as exactly as for verdicts, since its tail is heavy."""


@dataclass(frozen=True)
class Noise:
    """The noise of one set of comparable configurations."""

    labels: tuple[str, ...]
    standard_deviation: float
    """Of the loss of one run, after the effects of configuration and seed."""
    degrees: int
    """Degrees of freedom of that estimate."""
    num_seeds: int
    num_pairs: int
    """Pairs with a verdict."""
    is_against_baseline: bool
    """Whether all pairs have one configuration in common."""

    def smallest_difference(self, num_seeds: int, level: float = 0.05) -> float:
        """Return the difference found with 80 % power, at equal spread of all configurations.

        Args:
            num_seeds: common to all configurations.
            level: chance of any wrong verdict.
        """
        scale = smallest_difference(
            len(self.labels), num_seeds, level, against_first=self.is_against_baseline
        )
        return scale * self.standard_deviation

    def seeds_for(self, difference: float, level: float = 0.05) -> int | None:
        """Return the seeds with which a difference is found with 80 % power; None if over 200.

        Raises:
            ValueError: the difference is not above 0.
        """
        if not difference > 0:
            raise ValueError(f"difference={difference:g} must be above 0")
        fewest, most = 3, MOST_SEEDS
        if self.smallest_difference(most, level) > difference:
            return None
        while fewest < most:
            middle = math.isqrt(fewest * most)
            if self.smallest_difference(middle, level) <= difference:
                most = middle
            else:
                fewest = middle + 1
        return most


def noise_of(sweep: Sweep) -> Noise:
    """Return the noise of a sweep."""
    design = sweep.design
    pooled, _ = design.variances(sweep.losses[None])
    shared = set.intersection(*map(set, design.pairs))
    return Noise(
        labels=sweep.labels,
        standard_deviation=float(np.sqrt(pooled[0])),
        degrees=design.degrees,
        num_seeds=design.num_seeds,
        num_pairs=len(design.pairs),
        is_against_baseline=bool(shared) and design.num_shapes > 2,
    )


def complete_design(num_seeds: int, num_shapes: int, *, against_first: bool) -> BlockDesign:
    """Return a design without missing runs; with all pairs, or those of the first shape."""
    pairs = tuple(
        pair for pair in combinations(range(num_shapes), 2) if not against_first or pair[0] == 0
    )
    return BlockDesign(np.ones((num_seeds, num_shapes), dtype=bool), pairs)


@lru_cache(maxsize=1024)
def smallest_difference(
    num_shapes: int, num_seeds: int, level: float = 0.05, *, against_first: bool = False
) -> float:
    """Return the difference that is found with 80 % power, in standard deviations of a run.

    The variance of a difference is estimated by the mean of the pooled variance (`all_degrees`) and
    the pair's own (`own`), which is approximately chi-squared with the degrees of freedom that give
    it the right variance (Satterthwaite).
    """
    from scipy.special import nctdtrinc, stdtrit

    own = num_seeds - 1
    all_degrees = own * (num_shapes - 1)
    degrees = 1 / (0.75 / all_degrees + 0.25 / own)
    design = complete_design(num_seeds, num_shapes, against_first=against_first)
    null = largest_statistic(design, is_quick=num_seeds > FEW_SEEDS)
    limit = null.limit(level) * float(stdtrit(own, 0.975))
    if math.isinf(limit):
        return math.inf

    # A noncentral t statistic of this mean stays below the limit in 20 % of comparisons.
    return float(nctdtrinc(degrees, 1 - POWER, limit)) * math.sqrt(2 / num_seeds)
