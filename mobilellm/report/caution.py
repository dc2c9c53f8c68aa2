"""Cautions: reasons to interpret a comparison with care, and how they list configurations."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mobilellm.units import listed

MOST_NAMES = 4
"""Longer lists are abbreviated to their length and the first two names."""
MOST_VALUES = 6


@dataclass(frozen=True)
class Caution:
    """One reason to interpret the comparison with care."""

    kind: str
    """What it is about, e.g. `budget`, `tokens`, `learning rate`."""
    is_serious: bool
    """Whether it can invalidate a verdict; otherwise it is only a note."""
    message: str


def some(names: Sequence[str], noun: str = "configurations") -> str:
    """`a, b and c`; for more than `MOST_NAMES`: `9 configurations (a, b, …)`."""
    if len(names) <= MOST_NAMES:
        return listed(list(names))
    return f"{len(names)} {noun} ({names[0]}, {names[1]}, …)"


def by_value(values: Mapping[str, str]) -> str:
    """Labels by value: `2×232 and 4×168: 1.00M; 8×120: 2.00M`; abbreviated if there are many."""
    labels: dict[str, list[str]] = defaultdict(list)
    for label, value in values.items():
        labels[value].append(label)
    parts = [f"{some(names)}: {value}" for value, names in labels.items()]
    if len(parts) > MOST_VALUES:
        left_out = len(parts) - MOST_VALUES + 1
        parts = [*parts[: MOST_VALUES - 1], f"and {left_out} more values"]
    return "; ".join(parts)
