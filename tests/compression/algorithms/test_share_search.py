"""The search over shares of groups, against closed forms and every division of a grid."""

import itertools

import pytest

from mobilellm.compression.algorithms.share_search import Bounds, search_shares, share_moves

NAMES = ("a", "b", "c")


def bounds_of(total=3000.0, costs=(1.0, 1.0, 2.0), least=300.0, most=2400.0):
    return Bounds(
        least=dict.fromkeys(NAMES, least), most=dict.fromkeys(NAMES, most),
        costs=dict(zip(NAMES, costs, strict=True)), total=total,
    )  # fmt: skip


def searched(loss, bounds, start=750):
    moves = share_moves([frozenset(name) for name in NAMES])
    uniform = dict.fromkeys(NAMES, start)
    return search_shares(uniform, moves, bounds, loss, loss(uniform))


@pytest.mark.parametrize("needs", [(1.0, 1.0, 1.0), (9.0, 1.0, 2.0), (1.0, 4.0, 30.0)])
def test_as_good_as_every_division_of_a_grid(needs):
    bounds = bounds_of()

    def loss(amounts):
        return sum(need / amounts[n] for n, need in zip(NAMES, needs, strict=True))

    grid = itertools.product(range(300, 2401, 25), repeat=2)
    rests = ((a, b, (bounds.total - a - b) / 2) for a, b in grid)
    every = [loss(dict(zip(NAMES, x, strict=True))) for x in rests if 300 <= x[2] <= 2400]
    found = searched(loss, bounds)
    assert bounds.cost(found) <= bounds.total
    assert all(300 <= amount <= 2400 for amount in found.values())
    assert loss(found) <= 1.01 * min(every)


def test_the_uniform_division_stays_where_it_is_best():
    # By Lagrange, the amounts are proportional to the roots of need / cost.
    costs = (1.0, 1.0, 2.0)
    found = searched(
        lambda amounts: sum(c / amounts[n] for n, c in zip(NAMES, costs, strict=True)), bounds_of()
    )
    assert found == dict.fromkeys(NAMES, 750)


def test_amounts_meet_the_total_and_the_bounds():
    fitted = bounds_of().fitted({"a": 1.0, "b": 10.0, "c": 1.0})
    assert fitted["b"] == pytest.approx(2100)  # The others have the least amount.
    assert (fitted["a"], fitted["c"]) == (300.0, 300.0)
    assert bounds_of(total=1e6).fitted(dict.fromkeys(NAMES, 1.0)) == dict.fromkeys(NAMES, 2400.0)
    with pytest.raises(ValueError, match="smallest amounts cost 1,200, more than the total of 1,1"):
        bounds_of(total=1100)
