"""Cautions: reasons to interpret a comparison with care, and how they list configurations."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mobilellm.units import join_names

MAX_NAMES = 4
"""Longer lists of names are shortened to their length and the first two names."""
MAX_VALUES = 6
"""Longer lists of values are cut."""


@dataclass(frozen=True)
class Caution:
    """One reason to interpret a comparison with care."""

    kind: str
    """Subject of the caution, e.g. `budget`, `tokens`, `learning rate`."""
    is_serious: bool
    """Whether it can invalidate a verdict; otherwise it is only a note."""
    message: str


def shorten_list(names: Sequence[str], noun: str = "configurations") -> str:
    """Format names as `a, b and c`; more than `MAX_NAMES` as `9 configurations (a, b, …)`."""
    if len(names) <= MAX_NAMES:
        return join_names(list(names))
    return f"{len(names)} {noun} ({names[0]}, {names[1]}, …)"


def labels_by_value(values: Mapping[str, str]) -> str:
    """List labels by value: `2×232 and 4×168: 1.00M; 8×120: 2.00M`; cut if there are many values.

    Args:
        values: value by label.
    """
    labels: dict[str, list[str]] = defaultdict(list)
    for label, value in values.items():
        labels[value].append(label)
    parts = [f"{shorten_list(names)}: {value}" for value, names in labels.items()]
    if len(parts) > MAX_VALUES:
        left_out = len(parts) - MAX_VALUES + 1
        parts = [*parts[: MAX_VALUES - 1], f"and {left_out} more values"]
    return "; ".join(parts)
