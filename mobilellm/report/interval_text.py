"""Confidence intervals as text: `4.213 ± 0.012`."""

import math

from mobilellm.report.statistics import Interval
from mobilellm.units import MISSING


def interval_text(interval: Interval | None) -> str:
    """Format an interval as `4.213 ± 0.012`, or the mean alone if there is no interval."""
    if interval is None:
        return MISSING
    if interval.half_width is None:
        return f"{interval.mean:.3f}".replace("-", "−")
    digits = _digits(interval.half_width)
    return f"{interval.mean:.{digits}f} ± {interval.half_width:.{digits}f}".replace("-", "−")


def signed_text(interval: Interval) -> str:
    """Format a difference with its sign: `+0.050 ± 0.020`."""
    return f"{'' if interval.mean < 0 else '+'}{interval_text(interval)}"


def size_text(interval: Interval) -> str:
    """Format the absolute value of a difference: `0.050 ± 0.020`."""
    return interval_text(Interval(abs(interval.mean), interval.half_width, interval.count))


def _digits(half_width: float) -> int:
    """The number of decimals: 3, or up to 5 to show the first digit of a small half-width."""
    if not 0 < half_width < math.inf:
        return 3
    return min(5, max(3, -math.floor(math.log10(half_width))))
