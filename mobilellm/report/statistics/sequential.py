"""Adding seeds until a verdict or a limit, with one stated error over all looks.

Whoever looks after every seed and stops at the first verdict is wrong more often than at one look.
The error is therefore spent over the looks: up to n of at most N seeds, the share n / N of it (Lan
and DeMets 1983, with a linear spending function). A look that is left out wastes its share and
breaks nothing, so nothing has to be recorded.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np

from mobilellm.report.statistics.block_design import BlockDesign, Floats
from mobilellm.report.statistics.noise import complete_design
from mobilellm.report.statistics.noise_patterns import noise_patterns
from mobilellm.report.statistics.verdicts import FAMILY_LEVEL, MINIMUM_SEEDS

NUM_SHAPES = 5
"""The levels are those of this number of shapes; they hardly depend on it."""
SWEEPS = 10_000
RANDOM_SEED = 1983


def level_until(most_seeds: int | None) -> Callable[[int], float]:
    """Return the chance of a wrong verdict that a look may have, by its number of seeds.

    Args:
        most_seeds: the limit, chosen before the first look; None: there is only one look.

    Raises:
        ValueError: the limit is below 3 seeds; at a look with more seeds than the limit.
    """
    if most_seeds is None:
        return lambda number_of_seeds: FAMILY_LEVEL
    if most_seeds < MINIMUM_SEEDS:
        raise ValueError(f"max_seeds={most_seeds} must be at least {MINIMUM_SEEDS}")

    def level(num_seeds: int) -> float:
        if num_seeds > most_seeds:
            raise ValueError(
                f"max_seeds={most_seeds}, but there are {num_seeds} seeds; the limit is chosen "
                "before the first look and must not be exceeded"
            )
        return look_levels(most_seeds)[num_seeds]

    return level


@lru_cache(maxsize=32)
def look_levels(most_seeds: int) -> dict[int, float]:
    """Return the nominal level of each look by its number of seeds, from 3 to the limit."""
    looks = range(MINIMUM_SEEDS, most_seeds + 1)
    maxima = _maxima(most_seeds)
    going = np.ones(maxima.shape[1:], dtype=bool)
    levels = {}
    spent = 0.0
    for place, look in enumerate(looks):
        allowed = FAMILY_LEVEL * look / most_seeds - spent
        spent += allowed
        limits = [
            _limit(row[there], round(allowed * row.size))
            for row, there in zip(maxima[place], going, strict=True)
        ]
        limit = max(limits)
        going &= maxima[place] <= limit
        levels[look] = float((maxima[place] > limit).mean(1).max())
    return levels


def _limit(values: Floats, count: int) -> float:
    """Return the limit that `count` values exceed."""
    return float(np.partition(values, len(values) - count - 1)[len(values) - count - 1])


def _maxima(most_seeds: int) -> Floats:
    """Draw (looks, patterns, sweeps): the largest statistics at the looks of growing sweeps."""
    whole = complete_design(most_seeds, NUM_SHAPES, against_first=False)
    return np.array(
        [list(_growing(whole, loadings)) for loadings in noise_patterns(whole)]
    ).swapaxes(0, 1)


def _growing(whole: BlockDesign, loadings: Floats) -> Iterator[Floats]:
    """Yield the (sweeps) largest statistics at each look, under one pattern of noise."""
    random = np.random.default_rng(RANDOM_SEED)
    sums = np.zeros((SWEEPS, NUM_SHAPES))
    products = np.zeros((SWEEPS, NUM_SHAPES, NUM_SHAPES))
    for seeds in range(1, whole.num_seeds + 1):
        losses = random.standard_normal((SWEEPS, loadings.shape[1])) @ loadings.T
        sums += losses
        products += losses[:, :, None] * losses[:, None, :]
        if seeds >= MINIMUM_SEEDS:
            means = sums / seeds
            scatter = products - seeds * means[:, :, None] * means[:, None, :]
            design = complete_design(seeds, NUM_SHAPES, against_first=False)
            yield design.statistics_of_moments(means, scatter).max(1)
