"""Constraints are exact, never corrected, and an infeasible space says what binds."""

import random

import pytest
from simulated_profile import true_time, write_profile
from small_space import SPACE, body, build, feasibility

from mobilellm.search.space import Candidate, Constraints, Rejection
from mobilellm.search.space.feasibility import ILLEGAL, NOT_COVERED, Survey

LARGEST = {
    "model": {
        "num_blocks": [1, 2, 4, 8],
        "hidden_size": {"low": 16, "high": 256, "step": 8, "largest_that_fits": True},
    }
}


def test_every_point_is_judged_as_by_hand():
    limit = 60_000
    checks = feasibility(max_body=limit)
    for point in checks.space.points(None):
        found = checks.check(point)
        depth, width = point["model.num_blocks"], point["model.hidden_size"]
        if width % 16:
            assert isinstance(found, Rejection)
            assert found.reasons == (ILLEGAL,)
        elif body(depth, width) > limit:
            assert isinstance(found, Rejection)
            assert found.reasons == ("body",)
        else:
            assert isinstance(found, Candidate)
            assert found.settings == point
            assert found.costs == {"body": body(depth, width)}


@pytest.mark.parametrize("limit", [4_000, 30_000, 200_000, 3_000_000])
def test_the_largest_width_is_that_of_a_scan(limit):
    checks = feasibility(LARGEST, max_body=limit)
    for depth in (1, 2, 4, 8):
        fitting = [w for w in range(16, 257, 16) if body(depth, w) <= limit]
        found = checks.check({"model.num_blocks": depth})
        if fitting:
            assert isinstance(found, Candidate)
            assert found.settings["model.hidden_size"] == fitting[-1]
            assert found.point == {"model.num_blocks": depth}
        else:
            assert isinstance(found, Rejection)
            assert found.costs == {"body": body(depth, 16)}


def test_counts_of_all_points_and_what_excludes_them():
    checks = feasibility(max_body=60_000, max_flops=200_000)
    survey = checks.survey()
    found = [checks.check(point) for point in checks.space.points(None)]
    rejected = [one for one in found if isinstance(one, Rejection)]
    assert (survey.points, survey.is_complete) == (len(found), True)
    assert survey.feasible == len(found) - len(rejected) == len(list(checks.candidates())) > 0
    for reason in (ILLEGAL, "body", "flops"):
        assert survey.violated[reason] == sum(reason in one.reasons for one in rejected)
        assert survey.alone.get(reason, 0) == sum(one.reasons == (reason,) for one in rejected)


def test_random_draws_estimate_the_share_of_a_large_space():
    space = {"model": {**SPACE["model"], "rope_theta": {"low": 1e3, "high": 1e5}}}
    exact = feasibility(max_body=60_000).survey()
    drawn = feasibility(space, max_body=60_000).survey(draws=600)
    assert not drawn.is_complete
    # A random point repeats its blocks in half of all cases, and a third of all points does not.
    share = sum(
        (1 if point["model.block_repeats"] == 1 else 0.5) / 42
        for point in feasibility().space.points(None)
        if isinstance(feasibility(max_body=60_000).check(point), Candidate)
    )
    assert abs(drawn.feasible / 600 - share) < 4 * (share * (1 - share) / 600) ** 0.5
    assert exact.is_complete


def test_an_infeasible_space_says_what_binds_and_how_far():
    survey = feasibility(max_body=100, max_flops=1e9).survey()
    message = (
        r"none of 63 points of search_space meets the constraints: max_body=100 excludes 36, and "
        rf"the lowest of a legal point is {body(1, 16):,} body parameters; illegal shape: 27; raise"
    )
    with pytest.raises(ValueError, match=message):
        survey.check()


def test_a_space_of_illegal_shapes_shows_one():
    space = {"model": {"num_blocks": [1, 2], "hidden_size": [17, 19]}}
    with pytest.raises(ValueError, match="all are illegal shapes, for example: hidden_size=17 mus"):
        feasibility(space, max_body=1e9).survey().check()


def test_the_largest_that_fits_needs_a_limit():
    with pytest.raises(ValueError, match="largest_that_fits needs a limit; give one, such as"):
        feasibility(LARGEST)


def test_latency_is_limited_within_the_range_of_the_profile(tmp_path):
    path = write_profile(
        tmp_path / "device.json", depths=(1, 2, 8), widths=(16, 32, 64), vocab=128, device="phone",
        times=lambda model: 100 * true_time(model),
    )  # fmt: skip
    known = {"latency_profile": str(path), "latency_device": "phone"}
    shape = {"model.num_blocks": 4, "model.hidden_size": 32, "model.block_repeats": 1}
    expected = 100 * true_time(build(shape))
    assert Constraints(**known).costs(build(shape))["latency_ms"] == pytest.approx(expected)
    for limit, kind in ((1.01 * expected, Candidate), (0.99 * expected, Rejection)):
        found = feasibility(max_latency_ms=limit, **known).check(shape)
        assert isinstance(found, kind)
        assert getattr(found, "reasons", ("latency_ms",)) == ("latency_ms",)
    space = {"model": {"num_blocks": [1, 2], "hidden_size": [64, 96]}}
    wide = feasibility(space, max_latency_ms=9e9, **known).check(
        {"model.num_blocks": 1, "model.hidden_size": 96}
    )
    assert isinstance(wide, Rejection)
    assert wide.reasons == (NOT_COVERED,)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_latency_ms": 3.0}, "max_latency_ms=3 requires a device profile; measure it once"),
        ({"max_body": 0}, "max_body=0 must be above 0; null sets no limit"),
        ({"max_bytes": float("nan")}, "max_bytes=nan must be a finite number"),
        ({"bits": 0}, "bits=0 must be a whole number"),
        ({"context": -1}, "context=-1 must be a whole number of at least 0"),
    ],
)
def test_constraints_that_are_not_valid_are_refused(limits, message):
    with pytest.raises(ValueError, match=message):
        Constraints(**limits)


def test_memory_and_bytes_are_closed_forms():
    model = build({"model.num_blocks": 2, "model.hidden_size": 32})
    costs = Constraints(bits=4, embedding_bits=8, context=10, sequence_length=1).costs(model)
    matrices, norms, table = 2 * 13 * 32**2, 5 * 32, 128 * 32
    assert costs["bytes"] == (4 * matrices + 8 * table + 16 * norms) / 8
    assert costs["memory"] == costs["bytes"] + 10 * 2 * (2 * 32) * 2
    assert costs["stored"] == matrices + norms + table
    assert costs["flops"] == 2 * (matrices + table) + 2 * 2 * (2 * 32)


def test_a_survey_of_nothing_feasible_is_empty():
    survey = Survey.of([], Constraints(), True)
    assert (survey.points, survey.feasible, survey.lowest) == (0, 0, {})


def test_draws_depend_on_the_seed_only():
    checks = feasibility(max_body=60_000)
    first, second = random.Random(3), random.Random(3)
    assert [checks.draw(first) for _ in range(20)] == [checks.draw(second) for _ in range(20)]
