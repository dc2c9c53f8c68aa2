"""Kendall's tau against scipy, by hand, and its interval by simulation."""

import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from mobilellm.report.statistics.kendall import kendall_tau


def test_a_small_case_by_hand():
    found = kendall_tau([1, 2, 3, 4], [1, 3, 2, 4])  # one of six pairs is in opposite order
    assert found.value == pytest.approx(4 / 6)
    assert (found.models, found.pairs) == (4, 6)
    assert str(found).startswith("0.67 [")
    assert str(found).endswith("], 4 models, 6 pairs")


@pytest.mark.parametrize("seed", range(5))
def test_it_is_scipys_tau_without_ties(seed):
    x, noise = np.random.default_rng(seed).normal(size=(2, 13))
    found = kendall_tau(x, x + noise, draws=10)
    assert found.value == pytest.approx(kendalltau(x, x + noise).statistic)


def test_perfect_orders_have_no_spread():
    for sign in (1, -1):
        found = kendall_tau(range(9), [sign * i for i in range(9)])
        assert (found.value, found.low, found.high) == (sign, sign, sign)


def test_a_sample_counts_pairs_of_different_models_only():
    """The bootstrap distribution of three models, listed sample by sample."""
    x, y = [0.0, 1.0, 2.0], [0.0, 2.0, 1.0]
    values = []
    for a in range(3):
        for b in range(3):
            for c in range(3):
                drawn = (a, b, c)
                pairs = [(i, j) for n, i in enumerate(drawn) for j in drawn[n + 1 :] if i != j]
                signs = [np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i, j in pairs]
                if signs:
                    values.append(np.mean(signs))
    found = kendall_tau(x, y, draws=200_000)
    assert found.low == pytest.approx(np.quantile(values, 0.025))
    assert found.high == pytest.approx(np.quantile(values, 0.975))


@pytest.mark.parametrize(("number", "least"), [(9, 0.80), (30, 0.90)])
def test_intervals_cover_the_true_tau_of_normal_pairs(number, least):
    """tau of a bivariate normal is 2/pi arcsin(rho); few models cover it too rarely, not never."""
    rho, generator = 0.8, np.random.default_rng(1)
    true, hits, repeats = 2 / math.pi * math.asin(rho), 0, 300
    for _ in range(repeats):
        x = generator.normal(size=number)
        y = rho * x + math.sqrt(1 - rho**2) * generator.normal(size=number)
        found = kendall_tau(x, y, draws=400)
        hits += found.low <= true <= found.high
    assert least <= hits / repeats <= 0.99


@pytest.mark.parametrize(("x", "y"), [([1.0], [2.0]), ([1.0, 2.0], [1.0])])
def test_too_few_values_are_refused(x, y):
    with pytest.raises(ValueError, match="give two values for each of at least 2 models"):
        kendall_tau(x, y)
