"""The knapsack against every combination of choices."""

import itertools
import random

import pytest

from mobilellm.compression.algorithms.knapsack import BUCKETS, choose


@pytest.mark.parametrize("seed", range(30))
def test_as_good_as_trying_everything(seed):
    rng = random.Random(seed)
    items = rng.randint(1, 5)
    costs = [[rng.randint(0, 40) for _ in range(rng.randint(1, 5))] for _ in range(items)]
    damages = [[rng.random() for _ in item] for item in costs]
    cheapest = sum(min(item) for item in costs)
    budget = cheapest + rng.randint(0, 60)
    chosen = choose(costs, damages, budget)
    assert sum(item[i] for item, i in zip(costs, chosen, strict=True)) <= budget
    # Each item's cost is rounded up to a step of the budget: so much of it may go unused.
    rounded = budget - items * budget / BUCKETS
    best = min(
        sum(item[i] for item, i in zip(damages, combination, strict=True))
        for combination in itertools.product(*(range(len(item)) for item in costs))
        if sum(item[i] for item, i in zip(costs, combination, strict=True))
        <= max(rounded, cheapest)
    )
    assert sum(item[i] for item, i in zip(damages, chosen, strict=True)) <= best + 1e-12


def test_a_budget_that_nothing_fits_is_refused():
    with pytest.raises(ValueError, match="together cost 12, more than the budget of 11"):
        choose([[5, 9], [7, 8]], [[1, 0], [1, 0]], 11)
