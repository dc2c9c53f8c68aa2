"""Intervals and paired tests against scipy, closed forms, and simulations with a known truth."""

import itertools

import numpy as np
import pytest
from scipy import stats

from mobilellm.evaluation.intervals import bootstrap_intervals, wilson_interval
from mobilellm.evaluation.paired import compare_correct, compare_means, compare_ratios, holm
from mobilellm.evaluation.signal_to_noise import signal_to_noise


@pytest.mark.parametrize(("correct", "count"), [(0, 5), (5, 5), (13, 40), (700, 1000)])
def test_wilson_interval_is_scipys(correct, count):
    expected = stats.binomtest(correct, count).proportion_ci(method="wilson")
    assert wilson_interval(correct, count) == pytest.approx((expected.low, expected.high))


def test_bootstrap_of_a_mean_is_the_closed_form_for_many_documents():
    values = np.random.default_rng(1).normal(3, 2, 2000)
    (interval,) = bootstrap_intervals([(values, np.ones(2000))])
    half = 1.96 * values.std() / 2000**0.5
    assert interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)


def test_bootstrap_of_a_ratio_counts_documents_by_their_size():
    """Equal bits per byte in every document: nothing varies, whatever their lengths."""
    sizes = np.random.default_rng(2).integers(1, 100, 50)
    interval, _ = bootstrap_intervals([(1.5 * sizes, sizes), (sizes, np.ones(50))])
    assert interval == pytest.approx((1.5, 1.5))
    with pytest.raises(ValueError, match="at least 1 document"):
        bootstrap_intervals([([], [])])


def test_a_single_document_has_no_interval():
    assert bootstrap_intervals([([3.0], [2.0])]) == [None]
    one, both = bootstrap_intervals([([3.0, 0.0], [2.0, 0.0]), ([3.0, 1.0], [2.0, 1.0])])
    assert one is None and both == (1.0, 1.5)


def test_bootstrap_covers_the_truth():
    rng, hits = np.random.default_rng(3), 0
    for _ in range(200):
        sizes = rng.integers(5, 50, 100)
        bits = sizes * (1.2 + rng.normal(0, 0.3, 100))
        (interval,) = bootstrap_intervals([(bits, sizes)], resamples=300)
        assert interval is not None
        hits += interval[0] < 1.2 < interval[1]
    assert 0.89 <= hits / 200 <= 0.99


def test_mcnemar_is_the_brute_force_over_all_signs():
    first = np.array([1, 1, 1, 1, 0, 1, 0, 1, 1, 0, 0.5])
    second = np.array([0, 0, 0, 1, 0, 0, 1, 0, 1, 0, 0.5])
    found = compare_correct(first, second)
    signs = np.array(list(itertools.product([-1, 1], repeat=6)))
    observed = abs((first - second).sum())
    assert found.p_value == pytest.approx((abs(signs.sum(axis=1)) >= observed).mean())
    assert found.mean == pytest.approx((first - second).mean())


def test_equal_models_do_not_differ():
    found = compare_correct([1, 0, 1], [1, 0, 1])
    assert (found.mean, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert compare_means([2.0, 3.0], [2.0, 3.0]).p_value == 1
    assert compare_means([2.0, 3.0], [1.0, 2.0]).p_value == 0


def test_paired_t_is_scipys():
    rng = np.random.default_rng(4)
    first, second = rng.normal(0.3, 1, 30), rng.normal(0, 1, 30)
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval()
    found = compare_means(first, second)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_ratio_with_equal_sizes_is_the_paired_t_test():
    rng = np.random.default_rng(5)
    first, second = rng.normal(0.3, 1, 30), rng.normal(0, 1, 30)
    found = compare_ratios(first, second, np.full(30, 4.0))
    plain = compare_means(first / 4, second / 4)
    assert found.p_value == pytest.approx(plain.p_value)
    assert (found.mean, found.low, found.high) == pytest.approx((plain.mean, plain.low, plain.high))


def test_ratio_of_unequal_sizes_has_the_stated_error():
    rng, rejected = np.random.default_rng(6), 0
    for _ in range(400):
        sizes = rng.integers(5, 100, 80)
        noise = rng.normal(0, 1, 80) * sizes**0.5
        rejected += compare_ratios(sizes + noise, sizes * 1.0, sizes).p_value < 0.05
    assert 0.025 <= rejected / 400 <= 0.085


def test_documents_must_be_the_same():
    with pytest.raises(ValueError, match="3 and 2 documents"):
        compare_correct([1, 0, 1], [1, 0])
    with pytest.raises(ValueError, match="at least 2"):
        compare_means([1], [0])


def test_holm_is_the_textbook_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_signal_to_noise_is_analysis_of_variance():
    values = {"deep": [1.0, 1.2, 1.1], "wide": [1.5, 1.4], "middle": [1.3, 1.2, 1.25]}
    found = signal_to_noise(values)
    assert found is not None
    assert found.p_value == pytest.approx(stats.f_oneway(*values.values()).pvalue)
    assert found.signal == pytest.approx(np.std([1.1, 1.45, 1.25], ddof=1))
    within = [x - np.mean(v) for v in values.values() for x in v]
    assert found.noise == pytest.approx((np.square(within).sum() / 5) ** 0.5)
    assert found.ratio == pytest.approx(found.signal / found.noise)


def test_signal_to_noise_needs_shapes_and_seeds():
    assert signal_to_noise({"deep": [1.0, 2.0]}) is None
    assert signal_to_noise({"deep": [1.0], "wide": [2.0]}) is None
    assert signal_to_noise({"deep": [1.0, 1.0], "wide": [1.0, 1.0]}).ratio == 0
    assert signal_to_noise({"deep": [1.0, 1.0], "wide": [2.0, 2.0]}).ratio == float("inf")
