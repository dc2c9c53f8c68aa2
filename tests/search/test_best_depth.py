"""The best depth of each size, on simulated ladders whose best depth is known."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from simulated_ladder import SIZES, ladder, true_loss, width_of

from mobilellm.search.best_depth import best_depths
from mobilellm.search.ladder_runs import LadderRuns
from mobilellm.search.loss_law import fit_loss_law


def true_depth(body):
    found = minimize_scalar(
        lambda d: true_loss(d, width_of(body, d), 20 * body), bounds=(0.3, 50), method="bounded"
    )
    return found.x


def test_the_law_gives_the_depth_of_the_lowest_loss():
    law = fit_loss_law(ladder(), samples=3)
    for found, body in zip(best_depths(law.runs, law), SIZES, strict=True):
        assert found.by_law.depth == pytest.approx(true_depth(body), rel=0.002)
        assert found.tokens == 20 * body
        assert found.depths == (1, 2, 4, 6, 8)


def test_intervals_contain_the_best_depth():
    by_law, measured = [], []
    for seed in range(12):
        law = fit_loss_law(ladder(seed, seed_noise=0.004), samples=100)
        for found, body in zip(best_depths(law.runs, law), SIZES, strict=True):
            best = true_depth(body)
            by_law.append(found.by_law.low <= best <= found.by_law.high)
            measured.append(found.measured.low <= best <= found.measured.high)
            assert found.measured.depth == pytest.approx(best, rel=0.4)
    assert np.mean(by_law) > 0.85
    assert np.mean(measured) > 0.85, "although the losses are no exact parabola"


def with_losses(loss_of):
    """A ladder whose losses depend on depth and body parameters alone."""
    runs = ladder(0)
    noise = np.random.default_rng(0).normal(0, 0.003, len(runs.loss))
    loss = loss_of(runs.depth, runs.body) * np.exp(noise) + 60 * runs.tokens**-0.32
    return LadderRuns(runs.depth, runs.width, runs.body, runs.tokens, runs.seeds, loss)


def test_a_parabola_has_its_vertex_as_best_depth():
    runs = with_losses(lambda d, m: 3 + 0.05 * (np.log(d) - np.log(3)) ** 2 - 0.1 * np.log(m / 1e5))
    for found in best_depths(runs, None):
        assert found.measured.depth == pytest.approx(3, rel=0.15)
        assert found.measured.low < 3 < found.measured.high
        assert not found.is_flat
        assert found.sentence().startswith(f"{found.measured.depth:.1f} (")


def test_flat_losses_have_no_best_depth():
    runs = with_losses(lambda d, m: 3 - 0.1 * np.log(m / 1e5) + 0 * d)
    found = best_depths(runs, None)
    assert sum(one.is_flat for one in found) >= 2
    assert "flat within noise" in [one.sentence() for one in found]


def test_a_falling_loss_has_its_best_depth_at_the_edge():
    runs = with_losses(lambda d, m: 3 - 0.1 * np.log(d) - 0.1 * np.log(m / 1e5))
    for found in best_depths(runs, None):
        assert found.is_at_edge
        assert found.measured.depth == pytest.approx(8)
        assert found.sentence().endswith("at the edge of the depths")
