"""Search for the division of a budget among groups of items, one group against all others.

A direct search (Hooke and Jeeves 1961, doi:10.1145/321062.321069): one group after the other gets
more, or less, at the expense of all others, and what lowers the loss is kept; then with smaller
steps. It needs no derivatives, and a group of many items takes no more trials than a single item.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

# Factors of the share of a group, from coarse to fine.
FACTORS = (1.5, 1.25, 1.1)
_BISECTIONS = 60


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Smallest and largest amount of each item, and the total that they may cost.

    Raises:
        ValueError: the smallest amounts cost more than the total.
    """

    least: Mapping[str, float]
    most: Mapping[str, float]
    costs: Mapping[str, float]
    """Cost of one unit of each item."""
    total: float

    def __post_init__(self) -> None:
        """Check that the smallest amounts are affordable."""
        cost = self.cost(self.least)
        if cost > self.total * (1 + 1e-9):
            raise ValueError(
                f"the smallest amounts cost {cost:,.0f}, more than the total of {self.total:,.0f}; "
                "lower them or raise the total"
            )

    def cost(self, amounts: Mapping[str, float]) -> float:
        """Cost of all amounts together."""
        return sum(self.costs[name] * amount for name, amount in amounts.items())

    def fitted(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Amounts in proportion to the weights that cost the total, as far as the bounds allow.

        Args:
            weights: positive number of each item.
        """

        def scaled(scale: float) -> dict[str, float]:
            return {
                name: min(max(scale * weight, self.least[name]), self.most[name])
                for name, weight in weights.items()
            }

        low, high = 0.0, max(self.most[name] / weight for name, weight in weights.items())
        if self.cost(scaled(high)) <= self.total:
            return scaled(high)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if self.cost(scaled(middle)) > self.total else (middle, high)
        return scaled(low)


Move = tuple[float, frozenset[str]]
"""A factor, and the group of items whose share is multiplied or divided by it."""

TRIALS_PER_MOVE = 2


def share_moves(groups: Sequence[frozenset[str]]) -> list[Move]:
    """Every group with the coarsest factor, then with finer ones."""
    return [(factor, group) for factor in FACTORS for group in groups]


def search_shares(
    start: Mapping[str, float],
    moves: Iterable[Move],
    bounds: Bounds,
    loss: Callable[[dict[str, int]], float],
    start_loss: float,
) -> dict[str, int]:
    """The amounts with the lowest loss that a sequence of moves finds.

    Args:
        start: amount of each item, positive and within the bounds.
        moves: tried one after the other: more for the group, and if that does not lower the loss,
            less. Groups may overlap.
        bounds: what the amounts must meet.
        loss: of whole amounts, which are those of `Bounds.fitted` without their fractions.
        start_loss: the loss of `start`.

    Returns:
        The amounts; those of `start` if no move lowers the loss.
    """
    weights: dict[str, float] = dict(start)
    best, found = start_loss, {name: int(amount) for name, amount in start.items()}
    for factor, group in moves:
        for change in (factor, 1 / factor):
            tried = {n: w * change if n in group else w for n, w in weights.items()}
            amounts = {name: int(amount) for name, amount in bounds.fitted(tried).items()}
            if amounts == found:
                continue
            value = loss(amounts)
            if value < best:
                best, found, weights = value, amounts, tried
                break
    return found
