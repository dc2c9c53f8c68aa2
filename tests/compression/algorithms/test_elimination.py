"""Removing units one by one against refits of all remaining columns, by brute force."""

import pytest
import torch

from mobilellm.compression.algorithms.elimination import surviving_units
from mobilellm.compression.algorithms.selection_of_units import best_columns


def problem(inputs=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    moment = mixing @ mixing.T / inputs + 0.1 * torch.eye(inputs, dtype=torch.float64)
    return torch.randn(5, inputs, generator=generator, dtype=torch.float64), moment


def refit_error(weight, moment, kept):
    """tr(E S Eᵀ) with the best columns for the kept inputs."""
    kept = torch.tensor(kept)
    error = weight.clone()
    error[:, kept] -= best_columns(weight, moment, kept)
    return float((error @ moment * error).sum())


def greedy(weight, moment, count, unit, groups):
    """Removes the unit after which the refitted layer has the smallest error, again and again."""
    total = weight.shape[1] // unit
    alive = list(range(total))
    while len(alive) > groups * count:
        errors = {}
        for unit_index in alive:
            group = unit_index * groups // total
            if sum(u * groups // total == group for u in alive) == count:
                continue
            rest = [u for u in alive if u != unit_index]
            errors[unit_index] = refit_error(
                weight, moment, [u * unit + i for u in rest for i in range(unit)]
            )
        alive.remove(min(errors, key=errors.__getitem__))
    return alive


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("unit", "groups", "count"), [(1, 1, 4), (2, 1, 3), (1, 3, 2), (2, 2, 1)])
def test_it_is_the_greedy_removal_with_refits(seed, unit, groups, count):
    weight, moment = problem(seed=seed)
    kept = surviving_units(weight, moment, count, unit, groups).tolist()
    assert kept == greedy(weight, moment, count, unit, groups)


def test_of_two_equal_units_one_goes_although_both_are_large():
    weight, moment = problem()
    copy = torch.eye(12, dtype=torch.float64)
    copy[3] = copy[7]  # inputs 3 and 7 are the same
    moment, weight = copy @ moment @ copy.T, weight.clone()
    weight[:, [3, 7]] *= 10
    kept = set(surviving_units(weight, moment, 11).tolist())
    assert len(kept & {3, 7}) == 1


def test_inputs_that_are_always_zero_go_first():
    weight, moment = problem()
    moment[[0, 5]] = 0
    moment[:, [0, 5]] = 0
    assert not {0, 5} & set(surviving_units(weight, moment, 10).tolist())
