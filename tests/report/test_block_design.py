"""The block design and the common limit of all pairs: against closed forms and scipy."""

import itertools

import numpy as np
import pytest
from scipy import stats

from mobilellm.report.statistics.block_design import BlockDesign, sweep_of
from mobilellm.report.statistics.noise_patterns import noise_patterns
from mobilellm.report.statistics.simultaneous import (
    LargestStatistic,
    PairedT,
    largest_statistic,
    simulated_maxima,
)


def design(seeds, shapes, missing=(), against=None):
    runs = np.ones((seeds, shapes), dtype=bool)
    for place in missing:
        runs[place] = False
    pairs = [
        pair
        for pair in itertools.combinations(range(shapes), 2)
        if runs[:, pair].all(1).sum() > 1 and (against is None or against in pair)
    ]
    return BlockDesign(runs, tuple(pairs))


def losses(seed, *shape, spread=1.0):
    return 4 + np.random.default_rng(seed).normal(0, 0.01, shape) * spread


class TestBlockDesign:
    def test_a_complete_design_is_the_two_way_analysis_of_variance(self):
        values = losses(1, 1, 4, 5)
        block = design(4, 5)
        residuals = (
            values - values.mean(1, keepdims=True) - values.mean(2, keepdims=True) + values.mean()
        )
        pooled, own = block.variances(values)
        assert block.degrees == 12
        assert pooled[0] == pytest.approx((residuals**2).sum() / 12)
        for place, (first, second) in enumerate(block.pairs):
            differences = values[0, :, first] - values[0, :, second]
            assert own[0, place] == pytest.approx(differences.var(ddof=1) / 2)
            assert block.differences(values)[0, place] == pytest.approx(differences.mean())
            error = np.sqrt((pooled[0] + own[0, place]) / 2 * 2 / 4)
            assert block.errors(values)[0, place] == pytest.approx(error)

    def test_the_mean_of_the_pairs_own_variances_is_the_pooled_one(self):
        pooled, own = design(3, 6).variances(losses(2, 7, 3, 6))
        assert own.mean(1) == pytest.approx(pooled)

    def test_moments_are_sufficient(self):
        values = losses(3, 9, 4, 5)
        block = design(4, 5)
        means = values.mean(1)
        centred = values - means[:, None]
        scatter = centred.swapaxes(1, 2) @ centred
        found = block.statistics_of_moments(means, scatter)
        assert found == pytest.approx(block.statistics(values), rel=1e-6)

    def test_missing_runs_are_least_squares(self):
        """A shape without seed 0 takes the effect of that seed from the other shapes."""
        block = design(3, 4, missing=[(0, 0)])
        values = losses(4, 1, 3, 4)
        seeds, shapes = np.nonzero(block.runs)
        matrix = np.column_stack([np.eye(4)[shapes], np.eye(3)[seeds][:, 1:]])
        effects, *_ = np.linalg.lstsq(matrix, values[0][block.runs], rcond=None)
        covariance = np.linalg.inv(matrix.T @ matrix)
        residual = values[0][block.runs] - matrix @ effects
        assert block.degrees == 11 - 6
        assert block.variances(values)[0][0] == pytest.approx((residual**2).sum() / 5)
        for place, (first, second) in enumerate(block.pairs):
            contrast = np.eye(6)[first] - np.eye(6)[second]
            assert block.differences(values)[0, place] == pytest.approx(effects @ contrast)
            assert block.factors[place] == pytest.approx(contrast @ covariance @ contrast)
        assert block.own_degrees.tolist() == [1, 1, 1, 2, 2, 2]

    @pytest.mark.parametrize("missing", [(), [(1, 2), (0, 0)]])
    def test_effects_of_seed_and_shape_do_not_matter(self, missing):
        block = design(4, 5, missing)
        values = losses(5, 2, 4, 5)
        moved = values + np.arange(4)[:, None] * 0.7
        assert block.differences(moved) == pytest.approx(block.differences(values))
        assert block.errors(moved + np.arange(5)) == pytest.approx(block.errors(values))
        assert block.statistics(3 * values) == pytest.approx(block.statistics(values))

    def test_runs_that_say_nothing_are_left_out(self):
        found = sweep_of(
            {"a": {0: 1.0, 1: 2.0, 2: 3.0, 9: 4.0}, "b": {0: 1.0, 1: 2.0, 2: 3.0}, "c": {0: 1.0}},
            [("a", "b"), ("a", "c"), ("b", "c")],
        )
        assert (found.labels, found.seeds, found.design.pairs) == (("a", "b"), (0, 1, 2), ((0, 1),))
        assert sweep_of({"a": {0: 1.0, 1: 2.0}, "b": {0: 1.0}}, [("a", "b")]) is None


class TestLimit:
    @pytest.mark.parametrize("seeds", [3, 5])
    def test_two_shapes_are_the_paired_t_test(self, seeds):
        values = losses(6, 1, seeds, 2)
        block = design(seeds, 2)
        null = largest_statistic(block)
        assert isinstance(null, PairedT)
        expected = stats.ttest_rel(values[0, :, 0], values[0, :, 1]).pvalue
        assert null.p_values(block.statistics(values))[0, 0] == pytest.approx(expected)
        assert null.limit(0.05) == pytest.approx(1.0)

    def test_with_many_seeds_and_equal_noise_it_is_tukeys_studentized_range(self):
        """The pair's own variance then hardly differs from the pooled one."""
        block = design(400, 4)
        maxima = simulated_maxima(block, np.eye(4), 20_000) * block.scales[0] * np.sqrt(2)
        for level in (0.5, 0.1, 0.05):
            expected = stats.studentized_range.isf(level, 4, block.degrees)
            assert np.quantile(maxima, 1 - level) == pytest.approx(expected, rel=0.02)

    def test_against_a_baseline_it_is_dunnetts(self):
        block = design(400, 4, against=0)
        maxima = simulated_maxima(block, np.eye(4), 20_000) * block.scales[0]
        # Dunnett 1964, table for 3 treatments and infinite degrees of freedom, 5 %, two-sided.
        assert np.quantile(maxima, 0.95) == pytest.approx(2.35, abs=0.04)

    def test_draws_of_moments_have_the_distribution_of_draws_of_runs(self):
        complete = design(3, 4)
        loadings = np.diag([3.0, 1, 1, 1])
        found = simulated_maxima(complete, loadings, 20_000)
        random = np.random.default_rng(1)
        sources = random.standard_normal((20_000, 3, 4)) @ loadings
        expected = complete.statistics(sources).max(1)
        for share in (0.5, 0.9, 0.95):
            assert np.quantile(found, share) == pytest.approx(
                np.quantile(expected, share), rel=0.05
            )

    def test_it_is_the_largest_over_patterns_and_never_below_equal_noise(self):
        for block in (design(3, 5), design(3, 4, missing=[(0, 0)])):
            null = largest_statistic(block, is_quick=True)
            limits = [LargestStatistic((values,)).limit(0.05) for values in null.maxima]
            assert null.limit(0.05) == max(limits) >= limits[0]
            assert len(limits) == len(list(noise_patterns(block)))

    def test_limits_and_p_values_agree(self):
        null = largest_statistic(design(3, 3), is_quick=True)
        for level in (0.3, 0.05, 0.01):
            limit = null.limit(level)
            assert null.p_values(np.array([np.nextafter(limit, np.inf)]))[0] <= level
            assert null.p_values(np.array([limit]))[0] > level - 1e-3
        assert null.limit(1e-9) == np.inf
        p_values = null.p_values(np.linspace(0, 20, 50))
        assert (np.diff(p_values) <= 0).all() and p_values[0] == 1.0

    @pytest.mark.parametrize("spread", [1, (1, 1, 1, 1, 4), (1, 2, 3, 4, 5)])
    @pytest.mark.parametrize("missing", [(), [(0, 0), (1, 3)]])
    def test_at_most_5_percent_of_sweeps_without_differences_have_a_verdict(self, spread, missing):
        block = design(3, 5, missing)
        values = losses(8, 4000, 3, 5, spread=np.array(spread))
        wrong = (block.statistics(values) > largest_statistic(block).limit(0.05)).any(1).mean()
        assert wrong <= 0.055
