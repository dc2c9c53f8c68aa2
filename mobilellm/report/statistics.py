"""Statistics over seeds: intervals of means, and a verdict for each pair.

Two configurations are compared on their common seeds: runs with the same seed have the same data
order, so their differences vary less than the losses. Holm's procedure over all pairs keeps the
chance of any wrong verdict in the whole comparison below 5 %.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

INTERVAL = 0.95
"""Coverage of every interval."""
FAMILY_LEVEL = 0.04
"""Level of Holm's procedure: the chance of any wrong verdict for normally distributed losses. The
margin below 5 % allows for losses that are not exactly normal."""
MINIMUM_SEEDS = 3

BETTER = "better"
WORSE = "worse"
NOT_DISTINGUISHABLE = "not distinguishable"
TOO_FEW_SEEDS = "too few seeds"
NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its 95 % Student t interval."""

    mean: float
    half_width: float | None
    """Half the width of the interval; None for a single value."""
    count: int
    """Number of values."""


@dataclass(frozen=True)
class Pair:
    """The first of two configurations compared with the second."""

    first: str
    second: str
    seeds: tuple[int, ...]
    """Common seeds."""
    difference: Interval | None
    """Loss of the first minus that of the second over common seeds; None if there are none, or if
    the losses are not comparable."""
    p_value: float | None
    """Two-sided p-value of the paired t-test; None with fewer than `MINIMUM_SEEDS` common seeds."""
    adjusted_p_value: float | None
    """After Holm's procedure over all pairs that were tested."""
    verdict: str
    """`better` (the loss of the first is lower), `worse`, `not distinguishable`, `too few seeds` or
    `not comparable`."""
    reason: str = ""
    """Why the two are not comparable."""

    def swapped(self) -> "Pair":
        """The same comparison with the second configuration first."""
        difference = self.difference
        if difference is not None:
            difference = Interval(-difference.mean, difference.half_width, difference.count)
        verdict = {BETTER: WORSE, WORSE: BETTER}.get(self.verdict, self.verdict)
        return replace(
            self, first=self.second, second=self.first, difference=difference, verdict=verdict
        )


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % Student t interval of independent values.

    Raises:
        ValueError: there are no values.
    """
    from scipy.stats import t

    count = len(values)
    if not count:
        raise ValueError("an interval needs at least 1 value; 0 were given")
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, None, 1)
    return Interval(
        mean, float(t.ppf((1 + INTERVAL) / 2, count - 1)) * _standard_error(values), count
    )


def paired_p_value(differences: Sequence[float]) -> float:
    """Two-sided p-value of the paired t-test that the mean difference is zero.

    If all differences are equal, there is no variance: the p-value is 1 if they are zero, else 0.

    Raises:
        ValueError: fewer than 2 differences.
    """
    from scipy.stats import t

    if len(differences) < 2:
        raise ValueError(
            f"a paired test needs at least 2 differences; {len(differences)} were given"
        )
    mean, error = math.fsum(differences) / len(differences), _standard_error(differences)
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * t.sf(abs(mean) / error, len(differences) - 1))


def holm_adjusted(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p-values of Holm's step-down procedure, in the order given.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return tuple(adjusted)


def compare_pairs(
    losses: Mapping[str, Mapping[int, float]],
    incomparability_reason: Callable[[str, str], str | None] = lambda first, second: None,
    against: str | None = None,
) -> tuple[Pair, ...]:
    """Return a verdict for every pair of configurations, or for every pair with a baseline.

    Args:
        losses: final loss by label and seed; lower is better.
        incomparability_reason: returns why two configurations are not comparable, or None.
        against: label of the baseline, chosen before the losses were known; Holm's procedure then
            only counts the pairs with it.
    """
    names = itertools.combinations(losses, 2)
    if against is not None:
        names = ((name, against) for name in losses if name != against)
    tested = [_test_pair(pair, losses, incomparability_reason(*pair)) for pair in names]
    adjusted = iter(holm_adjusted([pair.p_value for pair in tested if pair.p_value is not None]))
    return tuple(
        pair
        if pair.verdict == NOT_COMPARABLE
        else _add_verdict(pair, None if pair.p_value is None else next(adjusted))
        for pair in tested
    )


def _add_verdict(pair: Pair, corrected: float | None) -> Pair:
    verdict = _verdict(pair.difference, corrected)
    return replace(pair, adjusted_p_value=corrected, verdict=verdict)


def _test_pair(
    names: tuple[str, str], losses: Mapping[str, Mapping[int, float]], reason: str | None
) -> Pair:
    """One pair before Holm's correction."""
    differences = paired_differences(*(losses[name] for name in names))
    seeds, values = tuple(differences), list(differences.values())
    if reason is not None:
        return Pair(*names, seeds, None, None, None, NOT_COMPARABLE, reason)
    p_value = paired_p_value(values) if len(values) >= MINIMUM_SEEDS else None
    interval = mean_interval(values) if values else None
    return Pair(*names, seeds, interval, p_value, None, TOO_FEW_SEEDS)


def paired_differences(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    """Differences, first minus second, for the common seeds in ascending order."""
    return {seed: first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())}


def _verdict(difference: Interval | None, adjusted_p_value: float | None) -> str:
    if difference is None or adjusted_p_value is None:
        return TOO_FEW_SEEDS
    if adjusted_p_value > FAMILY_LEVEL:
        return NOT_DISTINGUISHABLE
    return BETTER if difference.mean < 0 else WORSE


def _standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean."""
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))
