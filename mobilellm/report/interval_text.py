"""Confidence intervals as text: `4.213 ± 0.012`."""

import math

from mobilellm.report.statistics import Interval
from mobilellm.units import MISSING


def interval_text(interval: Interval | None) -> str:
    """`4.213 ± 0.012`; the mean alone where one value gives no interval."""
    if interval is None:
        return MISSING
    if interval.half_width is None:
        return f"{interval.mean:.3f}".replace("-", "−")
    digits = _digits(interval.half_width)
    return f"{interval.mean:.{digits}f} ± {interval.half_width:.{digits}f}".replace("-", "−")


def signed_text(interval: Interval) -> str:
    """A difference with its sign: `+0.050 ± 0.020`."""
    return f"{'' if interval.mean < 0 else '+'}{interval_text(interval)}"


def size_text(interval: Interval) -> str:
    """The size of a difference without its sign: `0.050 ± 0.020`."""
    return interval_text(Interval(abs(interval.mean), interval.half_width, interval.count))


def _digits(half_width: float) -> int:
    """3 decimals, or as many as the first digit of a smaller half-width needs, at most 5."""
    if not 0 < half_width < math.inf:
        return 3
    return min(5, max(3, -math.floor(math.log10(half_width))))
