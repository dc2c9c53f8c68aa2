"""Intervals and verdicts."""

import itertools

import numpy as np
import pytest
from scipy import stats

from mobilellm.report.statistics import (
    BETTER,
    EQUIVALENT,
    FAMILY_LEVEL,
    NOT_COMPARABLE,
    NOT_DISTINGUISHABLE,
    TOO_FEW_SEEDS,
    WORSE,
    judge,
    mean_interval,
    paired_differences,
)


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


class TestIntervals:
    @pytest.mark.parametrize("count", [2, 3, 7, 30])
    def test_interval_is_scipys(self, count):
        values = np.random.default_rng(count).normal(4, 0.1, count)
        found = mean_interval(values.tolist())
        low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
        assert found.count == count
        assert found.mean - found.half_width == pytest.approx(low, rel=1e-12)
        assert found.mean + found.half_width == pytest.approx(high, rel=1e-12)

    def test_interval_of_one_value_has_no_width(self):
        assert mean_interval([4.2]).half_width is None

    def test_interval_of_nothing_is_an_error(self):
        with pytest.raises(ValueError, match="an interval needs at least 1 value; 0 were given"):
            mean_interval([])


class TestVerdicts:
    def test_the_interval_excludes_zero_exactly_with_a_verdict(self):
        random = np.random.default_rng(9)
        for effect in np.linspace(0, 0.1, 12):
            for pair in judge(simulated(random, 4, 4, effect=effect)).pairs:
                excludes = abs(pair.difference.mean) > pair.difference.half_width
                assert excludes == (pair.verdict in (BETTER, WORSE))
                assert excludes == (pair.adjusted_p_value <= FAMILY_LEVEL)
                assert pair.p_value <= pair.adjusted_p_value

    @pytest.mark.parametrize("seeds", [3, 5])
    def test_a_large_effect_is_found(self, seeds):
        random = np.random.default_rng(11)
        found = 0
        for _ in range(50):
            pairs = judge(simulated(random, 5, seeds, noise=0.002, effect=0.2)).pairs
            found += all(pair.verdict == BETTER for pair in pairs if pair.first == "0")
            assert not any(pair.verdict == WORSE for pair in pairs if pair.first == "0")
        assert found >= 48

    def test_a_common_effect_of_the_seed_does_not_hide_a_difference(self):
        offsets = [0.0, 0.3, -0.2, 0.1]
        first = {seed: 4.0 + offset for seed, offset in enumerate(offsets)}
        second = {seed: 4.05 + offset + 0.001 * seed for seed, offset in enumerate(offsets)}
        (pair,) = judge({"a": first, "b": second}).pairs
        assert stats.ttest_ind(list(first.values()), list(second.values())).pvalue > 0.5
        assert pair.verdict == BETTER
        assert pair.difference.mean == pytest.approx(-0.0515)
        assert pair.swapped().verdict == WORSE
        assert pair.swapped().difference.mean == pytest.approx(0.0515)
        assert pair.swapped().swapped() == pair

    def test_the_order_of_the_shapes_does_not_matter(self):
        sweep = simulated(np.random.default_rng(12), 4, 3, effect=0.05)
        forward = judge(sweep).pairs
        backward = judge(dict(reversed(sweep.items()))).pairs
        by_names = {(pair.second, pair.first): pair for pair in backward}
        for pair in forward:
            other = by_names[pair.first, pair.second].swapped()
            assert other.difference.mean == pytest.approx(pair.difference.mean)
            assert other.difference.half_width == pytest.approx(pair.difference.half_width)
            assert other.verdict == pair.verdict

    def test_a_shape_that_spreads_more_has_wider_intervals(self):
        random = np.random.default_rng(13)
        sweep = simulated(random, 5, 4)
        sweep["0"] = {seed: loss + 0.2 * (-1) ** seed for seed, loss in sweep["0"].items()}
        widths = {
            (pair.first, pair.second): pair.difference.half_width for pair in judge(sweep).pairs
        }
        noisy = [width for names, width in widths.items() if "0" in names]
        quiet = [width for names, width in widths.items() if "0" not in names]
        assert min(noisy) > 1.3 * max(quiet)

    def test_every_pair_once_and_too_few_seeds(self):
        same = {0: 4.0, 1: 4.1, 2: 4.2}
        sweep = {"a": same, "b": {seed: loss + 1 + seed / 100 for seed, loss in same.items()},
                 "c": {0: 9.0}, "d": {7: 1.0}}  # fmt: skip
        pairs = judge(sweep).pairs
        assert [(pair.first, pair.second) for pair in pairs] == list(
            itertools.combinations("abcd", 2)
        )
        by_name = {pair.first + pair.second: pair for pair in pairs}
        assert by_name["ab"].verdict == BETTER
        # The only pair that could be tested: there is nothing to correct for.
        assert by_name["ab"].adjusted_p_value == by_name["ab"].p_value
        assert by_name["ac"].verdict == by_name["cd"].verdict == TOO_FEW_SEEDS
        assert by_name["ac"].seeds == (0,)
        assert by_name["ad"].difference is None

    def test_two_of_three_seeds_take_a_larger_difference(self):
        sweep = simulated(np.random.default_rng(14), 5, 3, noise=0.001, effect=0.3)
        del sweep["0"][2]
        pairs = judge(sweep).pairs
        lacking = [pair for pair in pairs if pair.first == "0"]
        assert {pair.verdict for pair in lacking} == {BETTER}
        widest = max(pair.difference.half_width for pair in pairs if pair.first != "0")
        assert min(pair.difference.half_width for pair in lacking) > 1.5 * widest

    def test_two_seeds_are_too_few(self):
        assert {
            pair.verdict for pair in judge(simulated(np.random.default_rng(15), 4, 2)).pairs
        } == {TOO_FEW_SEEDS}

    def test_equal_losses_are_not_distinguishable(self):
        same = {0: 4.0, 1: 4.1, 2: 4.2}
        for sweep in ({"a": same, "b": dict(same)}, {"a": same, "b": dict(same), "c": dict(same)}):
            for pair in judge(sweep).pairs:
                assert pair.verdict == NOT_DISTINGUISHABLE
                assert pair.difference.half_width == 0

    def test_differences_without_noise_have_a_verdict(self):
        shifts = {"a": 0.0, "b": 0.1, "c": 0.3}
        sweep = {name: dict.fromkeys(range(3), 4 + shift) for name, shift in shifts.items()}
        assert {pair.verdict for pair in judge(sweep).pairs} == {BETTER}

    def test_a_margin(self):
        sweep = simulated(np.random.default_rng(16), 3, 6, noise=0.001, effect=0.05)
        for margin in (0.01, 1e-5, None):
            expected = EQUIVALENT if margin == 0.01 else NOT_DISTINGUISHABLE
            by_name = {
                (pair.first, pair.second): pair for pair in judge(sweep, margin=margin).pairs
            }
            assert by_name["1", "2"].verdict == expected
            assert by_name["0", "1"].verdict == BETTER
            assert by_name["1", "2"].swapped().verdict == expected

    def test_a_baseline_compares_fewer_pairs_with_the_noise_of_all(self):
        sweep = simulated(np.random.default_rng(17), 5, 4)
        every, against = judge(sweep), judge(sweep, against="2")
        assert {pair.second for pair in against.pairs} == {"2"} and len(against.pairs) == 4
        assert against.noise[0].degrees == every.noise[0].degrees == 12
        assert against.noise[0].is_against_baseline and not every.noise[0].is_against_baseline
        widths = {(p.first, p.second): p.difference.half_width for p in every.pairs}
        for pair in against.pairs:
            width = widths.get((pair.first, pair.second), widths.get((pair.second, pair.first)))
            assert pair.difference.half_width <= width * 1.05

    def test_shapes_that_are_not_comparable_share_no_noise(self):
        sweep = simulated(np.random.default_rng(18), 4, 3)
        kinds = {"0": "a", "1": "a", "2": "b", "3": "b"}
        found = judge(sweep, lambda one, other: None if kinds[one] == kinds[other] else "kind")
        verdicts = {(pair.first, pair.second): pair for pair in found.pairs}
        assert verdicts["0", "2"].verdict == NOT_COMPARABLE and verdicts["0", "2"].reason == "kind"
        assert [noise.labels for noise in found.noise] == [("0", "1"), ("2", "3")]
        # Two families: each has half of the error.
        values = list(paired_differences(sweep["0"], sweep["1"]).values())
        width = stats.t.isf(FAMILY_LEVEL / 4, 2) * stats.sem(values)
        assert verdicts["0", "1"].difference.half_width == pytest.approx(width)
        expected = min(1.0, 2 * stats.ttest_1samp(values, 0).pvalue)
        assert verdicts["0", "1"].adjusted_p_value == pytest.approx(expected)

    def test_differences_are_taken_seed_by_seed(self):
        assert paired_differences({2: 1.0, 1: 5.0, 9: 0.0}, {1: 1.0, 2: 4.0}) == {1: 4.0, 2: -3.0}
