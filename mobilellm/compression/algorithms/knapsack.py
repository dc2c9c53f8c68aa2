"""The multiple-choice knapsack problem: one choice per item, within a budget, of least damage."""

from collections.abc import Sequence

import numpy as np

BUCKETS = 4000


def choose(
    costs: Sequence[Sequence[float]], damages: Sequence[Sequence[float]], budget: float
) -> list[int]:
    """The index of one choice per item that minimises the total damage within the budget.

    The problem is solved by dynamic programming over `BUCKETS` steps of the budget. The cost of a
    choice above the cheapest choice of the same item is rounded up to whole steps, so that the
    total cost never exceeds the budget.

    Args:
        costs: for each item, the cost of each choice; not negative.
        damages: for each item, the loss of quality of each choice.
        budget: the largest total cost, in the unit of `costs`.

    Raises:
        ValueError: the cheapest choices together cost more than the budget.
    """
    cheapest = sum(min(item) for item in costs)
    if cheapest > budget:
        raise ValueError(
            f"the smallest choices together cost {cheapest:,.0f}, more than the budget of "
            f"{budget:,.0f}; allow smaller choices, more layers, or a larger budget"
        )
    step = budget / BUCKETS if budget > 0 else 1.0
    best = np.zeros(BUCKETS + 1)
    taken: list[np.ndarray] = []
    for item_costs, item_damages in zip(costs, damages, strict=True):
        low = min(item_costs)
        new = np.full(BUCKETS + 1, np.inf)
        pick = np.zeros(BUCKETS + 1, dtype=np.int64)
        for index, (cost, damage) in enumerate(zip(item_costs, item_damages, strict=True)):
            # The cost above the item's cheapest choice, which is subtracted from the budget below.
            steps = int(np.ceil((cost - low) / step - 1e-9))
            if steps > BUCKETS:
                continue
            reached = np.full(BUCKETS + 1, np.inf)
            reached[steps:] = best[: BUCKETS + 1 - steps] + damage
            better = reached < new
            new[better], pick[better] = reached[better], index
        best = new
        taken.append(pick)
    left = int((budget - cheapest) / step + 1e-9)
    chosen = []
    for item_costs, pick in zip(reversed(costs), reversed(taken), strict=True):
        index = int(pick[left])
        chosen.append(index)
        left -= int(np.ceil((item_costs[index] - min(item_costs)) / step - 1e-9))
    return chosen[::-1]
