"""Which budgets of configurations are equal: stored or body parameters, or FLOPs per token."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mobilellm.report.run_groups import RunGroup
from mobilellm.units import count_text

TOLERANCE = 0.02
"""Budgets count as equal if their `spread` is at most this, which is the solver's tolerance."""

GAP = 0.15
"""If one budget exceeds the next smaller one by more than this fraction, the two are regarded as
different on purpose."""


@dataclass(frozen=True)
class Budget:
    """The smallest and the largest value of one quantity over several configurations."""

    name: str
    """`body parameters`, `stored parameters` or `training FLOPs per token`."""
    smallest: float
    largest: float
    largest_label: str
    """Label of the configuration with the largest value."""

    @property
    def spread(self) -> float:
        """Half of the range, relative to the midrange."""
        total = self.largest + self.smallest
        return (self.largest - self.smallest) / total if total else 0.0

    @property
    def is_matched(self) -> bool:
        """Whether all configurations are equal within `TOLERANCE`."""
        return self.spread <= TOLERANCE

    def __str__(self) -> str:
        """`body parameters 1.00M–1.02M (±0.9 %, most in 24×64)`."""
        ends = dict.fromkeys((count_text(self.smallest), count_text(self.largest)))
        most = f", most in {self.largest_label}" if self.largest > self.smallest else ""
        return f"{self.name} {'–'.join(ends)} (±{100 * self.spread:.1f} %{most})"


QUANTITIES: Mapping[str, Callable[[RunGroup], float]] = {
    "body parameters": lambda group: group.first.parameters["body"],
    "stored parameters": lambda group: group.first.parameters["stored"],
    "training FLOPs per token": lambda group: group.first.flops_per_token["training"],
}


def budgets(groups: Sequence[RunGroup]) -> tuple[Budget, ...]:
    """Return the range of each quantity over these configurations, body parameters first."""
    found = []
    for name, quantity in QUANTITIES.items():
        smallest, largest = min(groups, key=quantity), max(groups, key=quantity)
        found.append(Budget(name, quantity(smallest), quantity(largest), largest.label))
    return tuple(found)


def split_by_budget(groups: Sequence[RunGroup]) -> tuple[tuple[RunGroup, ...], ...]:
    """Divide configurations into subsets of about equal budget, small budgets first.

    The budget is the quantity that gives the fewest subsets; among several such quantities, it is
    the one that varies least within the subsets. The order within a subset is kept.
    """
    order = {group.label: index for index, group in enumerate(groups)}
    divisions = [(_split(groups, quantity), quantity) for quantity in QUANTITIES.values()]
    subsets, _ = min(divisions, key=lambda item: (len(item[0]), _variation(*item)))
    return tuple(tuple(sorted(subset, key=lambda group: order[group.label])) for subset in subsets)


def _split(
    groups: Sequence[RunGroup], quantity: Callable[[RunGroup], float]
) -> list[list[RunGroup]]:
    """Subsets that are separated by gaps of more than `GAP`."""
    subsets: list[list[RunGroup]] = []
    for group in sorted(groups, key=quantity):
        if subsets and quantity(group) <= (1 + GAP) * quantity(subsets[-1][-1]):
            subsets[-1].append(group)
        else:
            subsets.append([group])
    return subsets


def _variation(
    subsets: Sequence[Sequence[RunGroup]], quantity: Callable[[RunGroup], float]
) -> float:
    """The largest ratio of two values within a subset."""
    return max(quantity(subset[-1]) / quantity(subset[0]) for subset in subsets)
