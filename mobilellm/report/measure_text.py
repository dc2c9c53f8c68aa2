"""A measure with its interval as text."""

from collections.abc import Mapping
from typing import Any

from mobilellm.units import MISSING

LOPSIDED = 0.1
"""Share of the half width by which the value may lie beside the middle of an interval."""


def measure_text(entry: Mapping[str, Any], name: str, *, is_per_cent: bool) -> str:
    """A value with its interval: `45.1 ± 2.0`, or `3.0 (1–8)` if it is lopsided.

    Args:
        entry: has the value under `name`, and the ends of its interval under `name_interval`.
        name: of the measure; `MISSING` is returned if it is not in `entry`.
        is_per_cent: whether the value is a share, to be given in per cent.
    """
    if name not in entry:
        return MISSING
    scale, digits = (100, 1) if is_per_cent else (1, 3)
    value = scale * entry[name]
    text = f"{value:.{digits}f}"
    interval = entry.get(f"{name}_interval")
    if interval is None:
        return text
    low, high = (scale * end for end in interval)
    half = (high - low) / 2
    if abs(low + half - value) <= LOPSIDED * half:
        return f"{text} ± {half:.{digits}f}"
    return f"{text} ({low:.{max(digits - 1, 0)}f}–{high:.{max(digits - 1, 0)}f})"
