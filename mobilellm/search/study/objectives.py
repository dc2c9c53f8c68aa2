"""What a search minimises or maximises: measured results of a run, or costs of its shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm.search.space.constraints import COSTS

LOSSES = ("val_loss", "val_bits_per_byte")
"""Losses of summary.json that are also measured while a run trains."""


@dataclass(frozen=True)
class Objective:
    """One objective of a search.

    Raises:
        ValueError: the name is empty.
    """

    name: str
    """A cost of the shape, or an entry of summary.json, dotted if it is nested."""
    is_maximized: bool = False

    def __post_init__(self) -> None:
        """Check the name."""
        if not self.name:
            raise ValueError("search.objectives has an empty name; give e.g. [val_loss]")

    @classmethod
    def parse(cls, text: str) -> "Objective":
        """`val_loss` is minimised, and `-val_accuracy` is maximised."""
        return cls(text.removeprefix("-"), text.startswith("-"))

    @property
    def is_cost(self) -> bool:
        """Whether it follows from the shape, and is known before a trial starts."""
        return self.name in COSTS

    @property
    def text(self) -> str:
        """As it is written in the settings."""
        return f"-{self.name}" if self.is_maximized else self.name

    @property
    def superlative(self) -> str:
        """What the best value is called."""
        return "highest" if self.is_maximized else "lowest"

    def lower_is_better(self, value: float) -> float:
        """The value with the sign that makes lower values better."""
        return -value if self.is_maximized else value

    def value(self, costs: Mapping[str, float], summary: Mapping[str, Any]) -> float | None:
        """The value of a finished trial; None if its summary has no such number."""
        if self.is_cost:
            return costs.get(self.name)
        found: Any = summary
        for part in self.name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        is_number = isinstance(found, int | float) and not isinstance(found, bool)
        return float(found) if is_number else None


def parse_objectives(names: Sequence[str]) -> tuple[Objective, ...]:
    """Read the list of objectives.

    Raises:
        ValueError: it is empty, a name occurs twice, or all are costs of the shape.
    """
    objectives = tuple(Objective.parse(name) for name in names)
    if not objectives:
        raise ValueError("search.objectives is empty; give at least one, e.g. [val_loss]")
    if len({one.name for one in objectives}) < len(objectives):
        raise ValueError(f"search.objectives={list(names)} has a name twice; remove one of them")
    if all(one.is_cost for one in objectives):
        raise ValueError(
            f"search.objectives={list(names)} are all known from the shape, so that training shows "
            "nothing; add a result of training, such as val_loss"
        )
    return objectives


def dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether the first is at least as low in every value and lower in one."""
    pairs = list(zip(first, second, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def front(values: Mapping[int, Sequence[float]]) -> list[int]:
    """The keys of all values that no other dominates, in ascending order of the last value.

    Args:
        values: of each trial, one per objective; lower is better.
    """
    kept = [
        key
        for key, own in values.items()
        if not any(dominates(other, own) for other in values.values())
    ]
    return sorted(kept, key=lambda key: (*reversed(values[key]), key))
