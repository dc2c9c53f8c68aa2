"""One reason to read a comparison with care, and how shapes are listed in it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mobilellm.units import listed

MOST_NAMES = 4
"""So many shapes are named; of more only how many there are, and the first."""
MOST_VALUES = 6


@dataclass(frozen=True)
class Caution:
    """One reason to read the comparison with care."""

    kind: str
    """What it is about, e.g. `budget`, `tokens`, `learning rate`."""
    is_grave: bool
    """Whether it can turn a verdict; otherwise it is worth knowing."""
    message: str


def some(names: Sequence[str], noun: str = "shapes") -> str:
    """`a, b and c`; of more than `MOST_NAMES`: `9 shapes (a, b, …)`."""
    if len(names) <= MOST_NAMES:
        return listed(list(names))
    return f"{len(names)} {noun} ({names[0]}, {names[1]}, …)"


def by_value(values: Mapping[str, str]) -> str:
    """`2×232 and 4×168: 1.00M; 8×120: 2.00M`, from label to value; of many values the ends."""
    labels: dict[str, list[str]] = defaultdict(list)
    for label, value in values.items():
        labels[value].append(label)
    parts = [f"{some(names)}: {value}" for value, names in labels.items()]
    if len(parts) > MOST_VALUES:
        left_out = len(parts) - MOST_VALUES + 1
        parts = [*parts[: MOST_VALUES - 1], f"and {left_out} more values"]
    return "; ".join(parts)
