"""The simulation behind the table of docs/comparing-shapes.md, reduced, and the methods in it."""

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq
from scipy.special import digamma, polygamma

from mobilellm.report.statistics.noise import complete_design
from scripts.benchmarks.statistics_methods import (
    METHODS,
    fitted_prior,
    inverse_trigamma,
    moderated_and_tukey,
    paired_t_and_holm,
    pooled_and_tukey,
    shape_variances,
)
from scripts.benchmarks.statistics_simulation import (
    CONDITIONS,
    sequential_errors,
    smallest_difference,
    wrong_verdicts,
)

OWN = "this method"
HOLM = "paired t, Holm (before)"


def complete(seeds, shapes):
    return complete_design(seeds, shapes, against_first=False)


class TestMethods:
    def test_the_prior_solves_the_moment_equations(self):
        """Smyth 2004, section 6.2, with a solver instead of Newton's method."""
        variances = np.array([0.11, 0.52, 0.23, 2.9, 0.048, 1.3])
        degrees = np.array([4.0, 4, 3, 4, 2, 4])
        logs = np.log(variances) - digamma(degrees / 2) + np.log(degrees / 2)
        excess = np.sum((logs - logs.mean()) ** 2) / 5 - np.mean(polygamma(1, degrees / 2))
        expected = brentq(lambda d0: polygamma(1, d0 / 2) - excess, 1e-3, 1e4)
        scale = np.exp(logs.mean() + digamma(expected / 2) - np.log(expected / 2))
        assert fitted_prior(variances, degrees) == pytest.approx((expected, scale))

    def test_the_prior_of_many_variances_is_found(self):
        random = np.random.default_rng(0)
        variances = 0.3 * stats.f.rvs(4, 9, size=50_000, random_state=random)
        prior_degrees, prior_variance = fitted_prior(variances, np.full(50_000, 4.0))
        assert prior_degrees == pytest.approx(9, rel=0.05)
        assert prior_variance == pytest.approx(0.3, rel=0.02)

    def test_equal_variances_are_pooled(self):
        assert fitted_prior(np.array([0.2, 0.21, 0.19]), np.full(3, 4.0)) == (
            np.inf, pytest.approx(0.2),
        )  # fmt: skip

    @pytest.mark.parametrize("value", [1e-3, 0.5, 1.6449340668482264, 40.0])
    def test_inverse_trigamma(self, value):
        assert polygamma(1, inverse_trigamma(value)) == pytest.approx(value, rel=1e-9)

    def test_variances_of_shapes_have_the_pooled_one_as_their_mean(self):
        losses = np.random.default_rng(1).standard_normal((3, 4, 5))
        block = complete(4, 5)
        own, degrees = shape_variances(block, losses)
        assert own.mean(1) == pytest.approx(block.variances(losses)[0])
        assert degrees.tolist() == [3.0] * 5

    def test_tukeys_test_of_two_shapes_is_the_paired_t_test(self):
        losses = np.random.default_rng(2).standard_normal((500, 4, 2))
        losses[:, :, 0] += 1.0
        p_values = stats.ttest_rel(losses[:, :, 0], losses[:, :, 1], axis=1).pvalue
        found = pooled_and_tukey(complete(4, 2), losses)[:, 0]
        assert (found == (p_values < 0.05)).all() and 0 < found.sum() < 500
        assert (moderated_and_tukey(complete(4, 2), losses)[:, 0] == found).mean() > 0.98

    def test_holms_procedure_rejects_what_its_definition_rejects(self):
        losses = np.random.default_rng(3).standard_normal((200, 3, 4)) * 0.1
        losses += np.array([0, 0.5, 3, 8])
        block = complete(3, 4)
        found = paired_t_and_holm(block, losses)
        for sweep, values in enumerate(losses):
            p_values = [stats.ttest_rel(values[:, a], values[:, b]).pvalue for a, b in block.pairs]
            left, expected = sorted(range(6), key=p_values.__getitem__), set()
            while left and p_values[left[0]] <= 0.04 / len(left):
                expected.add(left.pop(0))
            assert set(np.flatnonzero(found[sweep])) == expected


class TestSimulation:
    @pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.name)
    def test_wrong_verdicts_are_rare_under_every_condition(self, condition):
        share = wrong_verdicts(condition, 3, 5, 1000, 0, [OWN])[OWN]
        assert share <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 1000)

    def test_methods_that_assume_equal_variances_are_wrong_more_often(self):
        shares = wrong_verdicts(CONDITIONS[2], 3, 5, 400, 0, list(METHODS))
        assert shares["pooled, Tukey"] > 0.1 < shares["limma, Tukey"]
        assert shares[OWN] < 0.07 > shares[HOLM]

    def test_differences_are_found_that_took_two_and_a_half_times_their_size(self):
        before, now = (smallest_difference(name, 3, 5, 2000, 0) for name in (HOLM, OWN))
        assert now <= 0.4 * before

    def test_adding_seeds_until_a_verdict_keeps_the_error(self):
        shares = sequential_errors(CONDITIONS[0], 6, 5, 1000, 0)
        assert shares["shared"] <= 0.05 < shares["5 % at each look"]
