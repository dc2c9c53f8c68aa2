"""Which budgets shapes have in common: stored or body parameters, or FLOPs per token."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mobilellm.report.shapes import Shape
from mobilellm.units import count_text

TOLERANCE = 0.02
"""Budgets at most this share off the middle of them count as equal: the solver's own tolerance."""

GAP = 0.15
"""Budgets that lie further apart than this share were not meant to be equal."""


@dataclass(frozen=True)
class Budget:
    """One quantity over several shapes."""

    name: str
    """`body parameters`, `stored parameters` or `training FLOPs per token`."""
    smallest: float
    largest: float
    largest_label: str
    """The shape that has the most."""

    @property
    def spread(self) -> float:
        """How far the ends are from the middle between them, as a share of it."""
        total = self.largest + self.smallest
        return (self.largest - self.smallest) / total if total else 0.0

    @property
    def is_matched(self) -> bool:
        """Whether all shapes have it within `TOLERANCE`."""
        return self.spread <= TOLERANCE

    def __str__(self) -> str:
        """`body parameters 1.00M–1.02M (±0.9 %, most in 24×64)`."""
        ends = dict.fromkeys((count_text(self.smallest), count_text(self.largest)))
        most = f", most in {self.largest_label}" if self.largest > self.smallest else ""
        return f"{self.name} {'–'.join(ends)} (±{100 * self.spread:.1f} %{most})"


QUANTITIES: Mapping[str, Callable[[Shape], float]] = {
    "body parameters": lambda shape: shape.first.parameters["body"],
    "stored parameters": lambda shape: shape.first.parameters["stored"],
    "training FLOPs per token": lambda shape: shape.first.flops_per_token["training"],
}


def budgets(shapes: Sequence[Shape]) -> tuple[Budget, ...]:
    """Every budget of these shapes, body parameters first."""
    found = []
    for name, quantity in QUANTITIES.items():
        smallest, largest = min(shapes, key=quantity), max(shapes, key=quantity)
        found.append(Budget(name, quantity(smallest), quantity(largest), largest.label))
    return tuple(found)


def budget_groups(shapes: Sequence[Shape]) -> tuple[tuple[Shape, ...], ...]:
    """Shapes that were meant to have one budget together, small budgets first.

    By the quantity that parts them into the fewest groups, and among those the one that varies
    least within them. Within a group the order stays.
    """
    order = {shape.label: index for index, shape in enumerate(shapes)}
    partings = [(_parted(shapes, quantity), quantity) for quantity in QUANTITIES.values()]
    groups, _ = min(partings, key=lambda item: (len(item[0]), _variation(*item)))
    return tuple(tuple(sorted(group, key=lambda shape: order[shape.label])) for group in groups)


def _parted(shapes: Sequence[Shape], quantity: Callable[[Shape], float]) -> list[list[Shape]]:
    """Groups with a gap of more than `GAP` between them."""
    groups: list[list[Shape]] = []
    for shape in sorted(shapes, key=quantity):
        if groups and quantity(shape) <= (1 + GAP) * quantity(groups[-1][-1]):
            groups[-1].append(shape)
        else:
            groups.append([shape])
    return groups


def _variation(groups: Sequence[Sequence[Shape]], quantity: Callable[[Shape], float]) -> float:
    """The largest spread within a group."""
    return max(quantity(group[-1]) / quantity(group[0]) for group in groups)
