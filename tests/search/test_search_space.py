"""Spaces: their points, against brute force, and everything that is refused."""

import collections
import itertools
import random

import pytest
from small_space import SPACE

from mobilellm.search.space import parse_space
from mobilellm.search.space.search_space import setting_values


def all_by_hand():
    for depth, width in itertools.product((1, 2, 4), range(16, 65, 8)):
        yield {"model.num_blocks": depth, "model.hidden_size": width, "model.block_repeats": 1}
        for scheme in ("immediate", "repeat_all"):
            yield {
                "model.num_blocks": depth, "model.hidden_size": width, "model.block_repeats": 2,
                "model.layer_sharing": scheme,
            }  # fmt: skip


def test_points_are_all_combinations_that_apply():
    points = list(parse_space(SPACE).points(None))
    assert len(points) == 3 * 7 * 3
    assert sorted(map(str, points)) == sorted(map(str, all_by_hand()))


def test_random_points_are_points_and_each_value_is_drawn_equally_often():
    space, generator = parse_space(SPACE), random.Random(0)
    drawn = [space.draw(generator, None) for _ in range(3000)]
    known = [str(point) for point in all_by_hand()]
    assert all(str(point) in known for point in drawn)
    depths = collections.Counter(point["model.num_blocks"] for point in drawn)
    assert all(abs(depths[depth] - 1000) < 4 * (3000 * 2 / 9) ** 0.5 for depth in (1, 2, 4))
    assert all(("model.layer_sharing" in p) == (p["model.block_repeats"] == 2) for p in drawn)


def test_a_logarithmic_range_draws_small_numbers_as_often_as_large_ones():
    space = parse_space({"optimizer": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}})
    generator = random.Random(1)
    drawn = [space.draw(generator, None)["optimizer.learning_rate"] for _ in range(2000)]
    assert all(1e-4 <= value <= 1e-2 for value in drawn)
    assert abs(sum(value < 1e-3 for value in drawn) - 1000) < 4 * 500**0.5


def test_every_block_has_a_value_of_its_own():
    sizes = {"choices": [8, 16], "per_block": True}
    space = parse_space({"model": {"num_blocks": [2, 3], "intermediate_size": sizes}})
    points = list(space.points(None))
    assert len(points) == 2**2 + 2**3
    settings = [setting_values(point) for point in points]
    assert all(len(one["model.intermediate_size"]) == one["model.num_blocks"] for one in settings)
    assert {"model.num_blocks": 3, "model.intermediate_size": [8, 16, 8]} in settings


def test_a_space_is_read_back_from_its_data():
    space = parse_space(SPACE)
    assert parse_space(space.to_dict()) == space


def leaf(**keys):
    return {"model": {"hidden_size": keys}}


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({}, "search_space is empty; choose one with search_space="),
        ({"model": {"num_blocks": 8}}, "neither a list of choices.*give a fixed value on the"),
        ({"model": {"num_blocks": "range(2,8)"}}, "nor a range, such as {low: 2, high: 8"),
        ({"model": {"num_blocks": [8]}}, "needs at least two values; a setting with one value"),
        ({"model": {"num_blocks": [8, 8]}}, "has the same value twice; remove one"),
        ({"model": {"num_blocks": [[8], [2]]}}, "give numbers, text, true, false or null"),
        (leaf(low=2), "high is missing; a range needs low and high"),
        (leaf(low=2, high=8, choices=[2, 8]), "has choices and low; use choices for a list"),
        (leaf(choices="ab"), "must be a list, such as"),
        (leaf(low=8, high=2), "low=8 must be below high=2"),
        (leaf(low="a", high="b"), "low='a' must be a number; give choices="),
        (leaf(low=2, high=float("inf")), "high=inf must be a finite number"),
        (leaf(low=2, high=9, step=2), "does not lead from low=2 to high=9; use high=8"),
        (leaf(low=2, high=8, step=0), "step=0 must be a number above 0"),
        (leaf(low=2, high=8, step=1.5), "step=1.5 must be a whole number"),
        (leaf(low=0, high=8, log=True), "low=0 must be above 0 with log=true"),
        (leaf(low=2, high=8, step=2, log=True), "step=2 has no effect with log=true"),
        (leaf(low=2, high=8, log=1), "log=1 must be true or false"),
        (leaf(low=1, high=10**9, step=1), "make more than 1,000,000 values"),
        (leaf(low=2, hi=8), "hidden_size.hi is not known; use choices, low, high"),
        (leaf(low=2, high=8, per_block=1), "per_block=1 must be true or false"),
        (leaf(low=2.0, high=8.0, largest_that_fits=True), "needs low, high and step, in whole"),
        (leaf(low=2, high=8, largest_that_fits=True, per_block=True), "exclude each other"),
        (leaf(low=2, high=8, when=3), "must name other parameters and their values"),
        (leaf(low=2, high=8, when={"model.num_blocks": 2}), "not a parameter above it"),
        (
            {"model": {"num_blocks": [2, 4], "hidden_size": {"low": 2, "high": 4,
                       "when": {"model": {"num_blocks": 3}}}}},
            "has the value 3, which model.num_blocks never takes; its values are 2, 4",
        ),
        (
            {"model": {name: {"low": 2, "high": 4, "largest_that_fits": True}
                       for name in ("hidden_size", "num_blocks")}},
            "cannot both be the largest that fits",
        ),
    ],
)  # fmt: skip
def test_a_space_that_is_not_valid_is_refused(node, message):
    with pytest.raises(ValueError, match=message):
        parse_space(node)


def test_values_per_block_need_a_depth():
    space = parse_space({"model": {"intermediate_size": {"choices": [8, 16], "per_block": True}}})
    assert len(list(space.points(3))) == 8
    with pytest.raises(ValueError, match=r"model\.num_blocks=None is not known; list model\.num"):
        list(space.points(None))


def test_continuous_values_cannot_be_enumerated():
    space = parse_space({"optimizer": {"learning_rate": {"low": 1e-4, "high": 1e-2}}})
    with pytest.raises(ValueError, match="no finite number of values; give its range a step"):
        next(space.points(None))
