"""What several seeds allow to be said: intervals of means, and a verdict for each pair.

Two shapes are compared on the seeds that both have, since one seed gives both the same data
order: the differences between them vary less than the losses do. Holm's procedure over all
pairs keeps the chance of any wrong verdict in the whole comparison under 5 %.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

INTERVAL = 0.95
"""Coverage of every interval."""
FAMILY_LEVEL = 0.04
"""Level of Holm's procedure: the chance of any wrong verdict where noise is normal. The margin
below 5 % is for losses that are not quite normal."""
MINIMUM_SEEDS = 3

BETTER = "better"
WORSE = "worse"
NOT_DISTINGUISHABLE = "not distinguishable"
TOO_FEW_SEEDS = "too few seeds"


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its 95 % Student t interval."""

    mean: float
    half_width: float | None
    """Half the width of the interval; None where one value gives none."""
    count: int
    """Values that went in."""


@dataclass(frozen=True)
class Pair:
    """The first of two shapes as compared with the second."""

    first: str
    second: str
    seeds: tuple[int, ...]
    """Seeds that both have."""
    difference: Interval | None
    """Loss of the first minus the second over common seeds; None without any."""
    p_value: float | None
    """Two-sided, of the paired t-test; None under `MINIMUM_SEEDS` common seeds."""
    adjusted_p_value: float | None
    """After Holm's procedure over all pairs that were tested."""
    verdict: str
    """`better`, `worse`, `not distinguishable` or `too few seeds`; better = lower loss."""

    def turned(self) -> "Pair":
        """The same comparison with the second shape first."""
        difference = self.difference
        if difference is not None:
            difference = Interval(-difference.mean, difference.half_width, difference.count)
        verdict = {BETTER: WORSE, WORSE: BETTER}.get(self.verdict, self.verdict)
        return Pair(
            self.second, self.first, self.seeds, difference,
            self.p_value, self.adjusted_p_value, verdict,
        )  # fmt: skip


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % Student t interval of independent values.

    Raises:
        ValueError: no values.
    """
    from scipy.stats import t

    count = len(values)
    if not count:
        raise ValueError("an interval needs at least 1 value; 0 given")
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, None, 1)
    return Interval(mean, float(t.ppf((1 + INTERVAL) / 2, count - 1)) * _error(values), count)


def paired_p_value(differences: Sequence[float]) -> float:
    """Two-sided p-value of the paired t-test that the mean difference is zero.

    Differences that are all equal leave no noise: 1 where they are zero, else 0.

    Raises:
        ValueError: fewer than 2 differences.
    """
    from scipy.stats import t

    if len(differences) < 2:
        raise ValueError(f"a paired test needs at least 2 differences; {len(differences)} given")
    mean, error = math.fsum(differences) / len(differences), _error(differences)
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * t.sf(abs(mean) / error, len(differences) - 1))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p-values of Holm's step-down procedure, in the order given.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return tuple(adjusted)


def compare_pairs(losses: Mapping[str, Mapping[int, float]]) -> tuple[Pair, ...]:
    """A verdict for every pair of shapes.

    Args:
        losses: shape to seed to final loss; lower is better.
    """
    found = [
        (first, second, paired_differences(losses[first], losses[second]))
        for first, second in itertools.combinations(losses, 2)
    ]
    p_values = [
        paired_p_value(list(differences.values())) if len(differences) >= MINIMUM_SEEDS else None
        for _, _, differences in found
    ]
    adjusted = iter(holm([value for value in p_values if value is not None]))
    pairs = []
    for (first, second, differences), p_value in zip(found, p_values, strict=True):
        values = list(differences.values())
        interval = mean_interval(values) if values else None
        corrected = None if p_value is None else next(adjusted)
        verdict = _verdict(interval, corrected)
        pairs.append(Pair(first, second, tuple(differences), interval, p_value, corrected, verdict))
    return tuple(pairs)


def paired_differences(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    """Seed to first minus second, for the seeds that both have, in order."""
    return {seed: first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())}


def _verdict(difference: Interval | None, adjusted_p_value: float | None) -> str:
    if difference is None or adjusted_p_value is None:
        return TOO_FEW_SEEDS
    if adjusted_p_value > FAMILY_LEVEL:
        return NOT_DISTINGUISHABLE
    return BETTER if difference.mean < 0 else WORSE


def _error(values: Sequence[float]) -> float:
    """Standard error of the mean."""
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))
