"""Means with their intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

INTERVAL = 0.95
"""Coverage of every interval."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds, or a difference of means, and its 95 % interval."""

    mean: float
    half_width: float | None
    """Half the width of the interval; None for a single value."""
    count: int
    """Number of values."""


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean and 95 % Student t interval of independent values.

    Raises:
        ValueError: there are no values.
    """
    from scipy.special import stdtrit  # scipy.stats takes half a second more to import

    count = len(values)
    if not count:
        raise ValueError("an interval needs at least 1 value; 0 were given")
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Interval(
        mean, float(stdtrit(count - 1, (1 + INTERVAL) / 2)) * math.sqrt(variance / count), count
    )
