"""Intervals, paired tests and Holm's procedure, against scipy and by simulation."""

import itertools

import numpy as np
import pytest
from scipy import stats

from mobilellm.report.statistics import (
    BETTER,
    FAMILY_LEVEL,
    NOT_DISTINGUISHABLE,
    TOO_FEW_SEEDS,
    WORSE,
    compare_pairs,
    holm_adjusted,
    mean_interval,
    paired_differences,
    paired_p_value,
)


def naive_holm(p_values, level):
    """Which hypotheses are rejected: from the smallest p, until one is too large."""
    rejected = set()
    remaining = sorted(range(len(p_values)), key=lambda index: p_values[index])
    while remaining and p_values[remaining[0]] <= level / len(remaining):
        rejected.add(remaining.pop(0))
    return rejected


def simulated(random, shapes, seeds, noise=0.01, effect=0.0):
    """Shape to seed to loss: a part common to a seed, and noise; shape 0 lower by `effect`."""
    common = random.normal(0, 0.05, seeds)
    return {
        str(shape): {
            seed: float(4 + common[seed] + random.normal(0, noise) - effect * (shape == 0))
            for seed in range(seeds)
        }
        for shape in range(shapes)
    }


@pytest.mark.parametrize("count", [2, 3, 7, 30])
def test_interval_is_scipys(count):
    values = np.random.default_rng(count).normal(4, 0.1, count)
    found = mean_interval(values.tolist())
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert found.count == count
    assert found.mean - found.half_width == pytest.approx(low, rel=1e-12)
    assert found.mean + found.half_width == pytest.approx(high, rel=1e-12)


def test_interval_of_one_value_has_no_width():
    assert mean_interval([4.2]).half_width is None


def test_interval_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="an interval needs at least 1 value; 0 were given"):
        mean_interval([])


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_p_value_is_scipys_paired_t_test(count):
    random = np.random.default_rng(count)
    first, second = random.normal(4, 0.1, count), random.normal(4.05, 0.1, count)
    expected = stats.ttest_rel(first, second).pvalue
    assert paired_p_value((first - second).tolist()) == pytest.approx(expected, rel=1e-10)


def test_p_value_without_noise():
    assert paired_p_value([0.0, 0.0, 0.0]) == 1.0
    assert paired_p_value([0.5, 0.5, 0.5]) == 0.0


def test_p_value_of_one_difference_is_an_error():
    with pytest.raises(
        ValueError, match="a paired test needs at least 2 differences; 1 were given"
    ):
        paired_p_value([0.1])


@pytest.mark.parametrize("seed", range(20))
def test_holm_rejects_what_the_procedure_rejects(seed):
    random = np.random.default_rng(seed)
    p_values = (random.random(random.integers(1, 12)) ** 4).tolist()
    adjusted = holm_adjusted(p_values)
    for level in (FAMILY_LEVEL, 0.3):
        rejected = {index for index, value in enumerate(adjusted) if value <= level}
        assert rejected == naive_holm(p_values, level)
    assert all(value >= raw for value, raw in zip(adjusted, p_values, strict=True))


def test_holm_of_a_known_example():
    assert holm_adjusted([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_adjusted([]) == ()


def test_at_most_5_percent_of_sweeps_without_effect_contain_a_verdict():
    random = np.random.default_rng(7)
    sweeps = [simulated(random, 5, seeds) for seeds in (3, 5) for _ in range(1000)]
    wrong = [
        any(pair.verdict in (BETTER, WORSE) for pair in compare_pairs(sweep)) for sweep in sweeps
    ]
    assert sum(wrong) <= 0.05 * len(sweeps)
    # The test is not idle either: without any correction about a third would be wrong.
    assert sum(wrong) >= 0.02 * len(sweeps)


@pytest.mark.parametrize("seeds", [3, 5])
def test_a_large_effect_is_found(seeds):
    random = np.random.default_rng(11)
    found = 0
    for _ in range(100):
        pairs = compare_pairs(simulated(random, 5, seeds, noise=0.002, effect=0.2))
        found += all(pair.verdict == BETTER for pair in pairs if pair.first == "0")
        assert not any(pair.verdict == WORSE for pair in pairs if pair.first == "0")
    assert found >= 95


def test_pairing_finds_what_unpaired_losses_hide():
    offsets = [0.0, 0.3, -0.2, 0.1]
    first = {seed: 4.0 + offset for seed, offset in enumerate(offsets)}
    second = {seed: 4.05 + offset + 0.001 * seed for seed, offset in enumerate(offsets)}
    (pair,) = compare_pairs({"a": first, "b": second})
    assert stats.ttest_ind(list(first.values()), list(second.values())).pvalue > 0.5
    assert pair.verdict == BETTER
    assert pair.difference.mean == pytest.approx(-0.0515)
    assert pair.swapped().verdict == WORSE
    assert pair.swapped().difference.mean == pytest.approx(0.0515)
    assert pair.swapped().swapped() == pair


def test_every_pair_once_and_too_few_seeds_do_not_count():
    same = {0: 4.0, 1: 4.1, 2: 4.2}
    losses = {"a": same, "b": {seed: loss + 1 + seed / 100 for seed, loss in same.items()},
              "c": {0: 9.0, 1: 9.0}, "d": {7: 1.0}}  # fmt: skip
    pairs = compare_pairs(losses)
    assert [(pair.first, pair.second) for pair in pairs] == list(itertools.combinations("abcd", 2))
    by_name = {pair.first + pair.second: pair for pair in pairs}
    assert by_name["ab"].verdict == BETTER
    # The only pair that could be tested: Holm has nothing to correct for.
    assert by_name["ab"].adjusted_p_value == by_name["ab"].p_value
    assert by_name["ac"].verdict == by_name["cd"].verdict == TOO_FEW_SEEDS
    assert by_name["ac"].seeds == (0, 1)
    assert by_name["ad"].difference is None


def test_equal_losses_are_not_distinguishable():
    same = {0: 4.0, 1: 4.1, 2: 4.2}
    assert compare_pairs({"a": same, "b": dict(same)})[0].verdict == NOT_DISTINGUISHABLE


def test_differences_are_taken_seed_by_seed():
    assert paired_differences({2: 1.0, 1: 5.0, 9: 0.0}, {1: 1.0, 2: 4.0}) == {1: 4.0, 2: -3.0}
