"""The law of loss in depth, width and tokens, on simulated ladders with known parameters."""

import numpy as np
import pytest
from scipy.optimize import least_squares
from simulated_ladder import SIZES, TRUE, ladder, true_loss, width_of

from mobilellm.search.ladder_runs import LadderRuns
from mobilellm.search.law_validation import hold_out_largest, leave_one_shape_out
from mobilellm.search.loss_law import FEATURES, fit_loss_law, missing_for_law, resampled_weights
from mobilellm.search.power_sum import fit_power_sums, starting_points

HELD_OUT = np.array([[depth, width_of(1e6, depth), 1e7] for depth in (2.0, 4.0, 8.0)])


def test_parameters_are_recovered_without_noise():
    law = fit_loss_law(ladder(), samples=5)
    found = {name: value for name, (value, _, _) in law.parameters().items()}
    assert found == pytest.approx(TRUE, rel=1e-4)
    assert law.predict(HELD_OUT) == pytest.approx(true_loss(*HELD_OUT.T), rel=1e-6)
    assert law.in_sample_error < 1e-6


def test_the_objective_is_as_low_as_scipys():
    """Against an independent solver of the same objective, from as many starting points."""
    runs, delta = ladder(3, shape_noise=0.003, seed_noise=0.004), 0.005
    points = runs.features(FEATURES)
    logs = np.log(points / np.exp(np.log(points).mean(0)))
    starts = starting_points(runs.loss, 3, 16)

    def residuals(p):
        terms = np.exp(p[1:4] - np.exp(p[4:]) * logs)
        return np.log(np.exp(p[0]) + terms.sum(1)) - np.log(runs.loss)

    best = min(
        least_squares(residuals, start, loss="huber", f_scale=delta).cost for start in starts
    )
    weights = np.ones((16, len(runs.loss)))
    _, objective = fit_power_sums(points, runs.loss, weights, starts, delta=delta)
    assert objective.min() == pytest.approx(best, rel=1e-5)


def test_weights_leave_runs_out():
    """Two fits at the same time are the two fits one by one."""
    runs = ladder(1, seed_noise=0.004)
    points, starts = runs.features(FEATURES), starting_points(runs.loss, 3, 12)
    first, second = runs.depth != 4, runs.width < 60
    together = np.repeat(np.stack([first, second]).astype(float), 12, axis=0)
    fits, objective = fit_power_sums(
        points, runs.loss, together, np.concatenate([starts, starts]), delta=1e-3
    )
    for kept, rows in ((first, slice(0, 12)), (second, slice(12, 24))):
        _, alone = fit_power_sums(
            points[kept], runs.loss[kept], np.ones((12, kept.sum())), starts, delta=1e-3
        )
        assert objective[rows].min() == pytest.approx(alone.min(), rel=1e-3)
    assert np.isfinite(fits.predict(HELD_OUT)).all()


def test_one_diverged_run_hardly_moves_the_law():
    runs = ladder(2, seed_noise=0.002)
    loss = runs.loss.copy()
    loss[40] *= 1.5
    outlier = LadderRuns(runs.depth, runs.width, runs.body, runs.tokens, runs.seeds, loss)
    before, after = (fit_loss_law(r, samples=5).predict(HELD_OUT) for r in (runs, outlier))
    assert after == pytest.approx(before, rel=0.01)


def test_the_law_predicts_better_than_naive_regressions():
    """A larger size: by the law, by body parameters alone, and by a line in logarithms."""
    law_errors, simple_errors, line_errors = [], [], []
    for seed in range(4):
        runs = ladder(seed, shape_noise=0.002, seed_noise=0.003, sizes=SIZES | {1e6: 1})
        found = hold_out_largest(runs)
        law_errors.append(found.error)
        simple_errors.append(found.simple_error)
        small = runs.where(runs.body < 5e5)
        design = np.log(np.column_stack([np.full(len(small.loss), np.e), small.features(FEATURES)]))
        line, *_ = np.linalg.lstsq(design, np.log(small.loss), rcond=None)
        points = np.log(np.column_stack([np.full(len(found.predicted), np.e),
                                         found.runs.features(FEATURES)]))  # fmt: skip
        line_errors.append(np.abs(np.exp(points @ line) / found.runs.loss - 1).mean())
    assert np.mean(law_errors) < 0.02
    assert np.mean(law_errors) < 0.5 * np.mean(simple_errors)
    assert np.mean(law_errors) < 0.5 * np.mean(line_errors)


def test_cross_validation_prefers_the_form_that_is_true():
    found = leave_one_shape_out(fit_loss_law(ladder(5, seed_noise=0.004), samples=5))
    assert (found.law < 0.005, found.simple > 0.02) == (True, True)
    runs = ladder(5, seed_noise=0.004)
    loss = 1.5 + 30 * runs.body**-0.3 + 60 * runs.tokens**-0.32
    noisy = loss * np.exp(np.random.default_rng(0).normal(0, 0.004, len(loss)))
    flat = LadderRuns(runs.depth, runs.width, runs.body, runs.tokens, runs.seeds, noisy)
    found = leave_one_shape_out(fit_loss_law(flat, samples=5))
    assert found.simple < 0.004, "depth and width do not matter"


def test_resamples_keep_the_horizons_of_a_seed_together():
    runs = ladder(0)
    weights = resampled_weights(runs, 50)
    for size in runs.size_names:
        total = weights[:, runs.sizes == size].sum(1)
        assert (total == (runs.sizes == size).sum()).all(), "as many runs of each size"
    keys = np.stack([runs.shapes, runs.seeds], 1)
    for key in np.unique(keys, axis=0):
        of_run = weights[:, (keys == key).all(1)]
        assert (of_run == of_run[:, :1]).all()
    assert (weights.mean(0) > 0.6).all()
    assert (weights.mean(0) < 1.5).all()
    per_shape = weights[:, runs.shapes == 0].sum(1)
    assert set(np.unique(per_shape) % per_shape[per_shape > 0].min()) == {0}, "whole shapes"


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        ({"sizes": {1e5: 3}}, "1 sizes .body parameters. instead of at least 3"),
        ({"sizes": {1e5: 3, 3e5: 2}}, "2 sizes"),
        ({"horizons": (1.0,)}, "no shape with two token budgets"),
        ({"depths": (2, 4)}, "2 different depths instead of at least 3"),
        ({"depths": (4,)}, "fewer than 2 sizes with at least 3 depths"),
    ],
)
def test_what_is_missing_is_named(change, clause):
    runs = ladder(**change)
    with pytest.raises(ValueError, match=rf"the runs do not identify a law: .*{clause}"):
        fit_loss_law(runs)
    assert missing_for_law(ladder()) == []


def test_what_is_outside_the_fitted_range():
    law = fit_loss_law(ladder(), samples=5)
    assert law.outside(4, 60, 1e6, 1e5) == {"depth": 1, "width": 1, "tokens": 1, "body": 1}
    found = law.outside(16, 10, 12e6, 6e5)
    assert found["depth"] == 2
    assert found["tokens"] == 2
    assert found["width"] == pytest.approx(width_of(5e4, 8) / 10)
    assert found["body"] == pytest.approx(2, rel=0.01)


def test_equal_shapes_cannot_be_told_apart():
    law = fit_loss_law(ladder(0, seed_noise=0.01), samples=100)
    point = (4.0, 60.0, 1e6)
    assert law.difference(point, point).loss == 0
    near = law.difference(point, (4.1, 60.0, 1e6))
    far = law.difference((1.0, 20.0, 1e6), (4.0, 60.0, 1e6))
    assert near.low < near.loss < near.high
    assert far.low > 0.3
    assert str(law.prediction(*point)).count(".") == 3


def test_differences_contain_the_deviations_of_shapes():
    """Two new shapes deviate from the law as those did to which it was fitted."""
    random, points = np.random.default_rng(0), np.array([[2.0, 45.0, 2e6], [6.0, 26.0, 2e6]])
    truth, inside = true_loss(*points.T), []
    for seed in range(8):
        law = fit_loss_law(ladder(seed, shape_noise=0.005, seed_noise=0.003), samples=60)
        found = law.difference(*points)
        losses = truth * np.exp(random.normal(0, 0.005, (500, 2)))
        differences = losses[:, 0] - losses[:, 1]
        inside.append(np.mean((found.low <= differences) & (differences <= found.high)))
    assert 0.9 < np.mean(inside) < 0.995


def test_runs_without_an_irreducible_loss():
    runs = ladder(seed_noise=0.0005)
    assert not fit_loss_law(runs, samples=20).is_without_floor
    # Losses of a law whose L0 is below 0.
    loss = runs.loss - 1.5 * TRUE["L0"]
    below = LadderRuns(runs.depth, runs.width, runs.body, runs.tokens, runs.seeds, loss)
    law = fit_loss_law(below, samples=20)
    assert law.is_without_floor and law.parameters()["L0"][0] == 0
    assert "L0" not in law.undetermined


def test_parameters_that_the_runs_do_not_determine():
    assert fit_loss_law(ladder(seed_noise=0.0005), samples=100).undetermined == ()
    # Without an effect of depth, its exponent is anything.
    runs = ladder(seed_noise=0.004)
    loss = runs.loss - TRUE["a"] * runs.depth ** -TRUE["alpha"]
    flat = LadderRuns(runs.depth, runs.width, runs.body, runs.tokens, runs.seeds, loss)
    assert "alpha" in fit_loss_law(flat, samples=100).undetermined


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("loss", [0.0], "must be above 0"), ("depth", [1.0, 2.0], r"lengths \[1, 2\], not one")],
)
def test_arrays_are_checked(field, value, message):
    fields = {name: [1.0] for name in ("depth", "width", "body", "tokens", "loss")} | {field: value}
    with pytest.raises(ValueError, match=message):
        LadderRuns(seeds=np.array([0]), **{name: np.array(v) for name, v in fields.items()})


@pytest.mark.slow
@pytest.mark.parametrize("shape_noise", [0.0, 0.003])
def test_intervals_hold(shape_noise):
    """95 % intervals of expected losses, of runs and of parameters contain the truth."""
    random = np.random.default_rng(1)
    points = np.concatenate([HELD_OUT, [[4.0, 46.0, 2e6], [4.0, width_of(1e5, 4), 4e6]]])
    truth = true_loss(*points.T)
    expected, runs, parameters = [], [], []
    for seed in range(100):
        law = fit_loss_law(ladder(seed, shape_noise=shape_noise, seed_noise=0.004))
        low, high = np.quantile(law.samples.predict(points), [0.025, 0.975], axis=0)
        expected.append((low <= truth) & (truth <= high))
        spread = np.hypot(shape_noise, 0.004)
        seen = truth * np.exp(random.normal(0, spread, len(truth)))
        found = [law.prediction(*point) for point in points]
        runs.append([p.low <= loss <= p.high for p, loss in zip(found, seen, strict=True)])
        parameters.append([low <= TRUE[name] <= high for name, (_, low, high)
                           in law.parameters().items()])  # fmt: skip
    # Two standard errors of 100 trials below 95 %.
    assert (np.mean(expected, 0) >= 0.90).all()
    assert (np.mean(runs, 0) >= 0.90).all()
    assert (np.mean(parameters, 0) >= 0.90).all()
