"""Low rank and sums of Kronecker products, fitted to weights and to outputs."""

import itertools

import pytest
import torch

from mobilellm.compression.algorithms.kronecker import nearest_kronecker
from mobilellm.compression.algorithms.least_squares import refit_kronecker
from mobilellm.compression.algorithms.low_rank import nearest_low_rank
from mobilellm.compression.algorithms.metric import Metric, target_weight
from mobilellm.compression.algorithms.sums import SumFit, balanced, dense
from mobilellm.layers.factorized import FactorizedShape
from mobilellm.layers.part_shape import PartShape, low_rank_shape, rank_for

FACTORS = [((6, 4), (2, 3), 1), ((3, 5), (4, 2), 2), ((12, 10), (1, 2), 1), ((7, 3), (1, 1), 1),
           ((4, 6), (3, 2), 4), ((5, 1), (3, 8), 2)]  # fmt: skip


def correlated(tokens, size, seed=0):
    """Inputs (tokens, size) with unequal scales and correlations."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    scales = torch.randn(size, generator=generator, dtype=torch.float64).exp()
    return torch.randn(tokens, size, generator=generator, dtype=torch.float64) @ mix * scales


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def metric_of(x):
    return Metric(x.T @ x / len(x))


def test_the_metric_is_the_error_of_the_outputs():
    x, weight, other = correlated(200, 12), random(7, 12), random(7, 12, seed=2)
    expected = torch.linalg.norm((weight - other) @ x.T) / torch.linalg.norm(weight @ x.T)
    assert metric_of(x).relative_error(weight, other) == pytest.approx(float(expected), rel=1e-4)
    whitened = metric_of(x).whiten(weight)
    assert torch.allclose(metric_of(x).unwhiten_right(whitened), weight)


def test_rows_are_weighed():
    x, weight, other = correlated(200, 12), random(7, 12), random(7, 12, seed=2)
    rows = torch.rand(7, generator=torch.Generator().manual_seed(3)).double() + 0.1
    metric = Metric(x.T @ x / len(x), rows)
    scaled = rows.sqrt().unsqueeze(1) * ((weight - other) @ x.T)
    assert metric.squared_norm(weight - other) == pytest.approx(
        float(scaled.square().sum() / len(x)), rel=1e-4
    )
    # The best matrix of a rank leaves the singular values beyond it.
    left, right = nearest_low_rank(weight, 3, metric)
    error = weight.double() - dense((left, right))
    tail = torch.linalg.svdvals(metric.whiten(weight))[3:].square().sum()
    assert metric.squared_norm(error) == pytest.approx(float(tail), rel=1e-6)
    with pytest.raises(ValueError, match="row weights must be positive"):
        Metric(rows=torch.zeros(7))


@pytest.mark.parametrize("moment", [False, True])
def test_a_kronecker_part_fits_heavy_rows_better(moment):
    x, weight = correlated(200, 12), random(8, 12)
    rows = torch.tensor([100.0] * 4 + [1.0] * 4)
    shape = FactorizedShape(parts=(PartShape(left=(4, 6), right=(2, 2), num_terms=1),))
    second = x.T @ x / len(x) if moment else None
    errors = {}
    for name, metric in (("even", Metric(second)), ("heavy", Metric(second, rows))):
        fit = SumFit(weight, shape, metric).improve()
        residual = weight - fit.layer(torch.float64).materialize().detach()
        errors[name] = Metric(second, rows).squared_norm(residual)
    assert errors["heavy"] < 0.99 * errors["even"]


def test_the_error_of_low_rank_is_that_of_the_discarded_singular_values():
    x, weight = correlated(300, 18), random(11, 18)
    for metric in (Metric(), metric_of(x)):
        values = torch.linalg.svdvals(metric.whiten(weight))
        for rank in (1, 4, 11):
            error = metric.squared_norm(weight - dense(nearest_low_rank(weight, rank, metric)))
            assert error == pytest.approx(float(values[rank:].square().sum()), rel=1e-6, abs=1e-9)


def test_low_rank_for_the_outputs_beats_low_rank_for_the_weights_on_them():
    x, weight = correlated(300, 18), random(11, 18)
    metric = metric_of(x)
    aware, plain = (dense(nearest_low_rank(weight, 4, m)) for m in (metric, None))
    assert metric.squared_norm(weight - aware) < metric.squared_norm(weight - plain)
    assert Metric().squared_norm(weight - plain) < Metric().squared_norm(weight - aware)


@pytest.mark.parametrize(("left", "right", "terms"), FACTORS)
def test_alternating_least_squares_never_raises_the_error(left, right, terms):
    weight = random(left[0] * right[0], left[1] * right[1])
    metric = metric_of(correlated(400, weight.shape[1]))
    factors = nearest_kronecker(weight, left, right, terms)
    errors = [metric.squared_norm(weight - dense(factors))]
    for _ in range(6):
        factors = refit_kronecker(weight, *factors, metric)
        errors.append(metric.squared_norm(weight - dense(factors)))
    for before, after in itertools.pairwise(errors):
        assert after <= before * (1 + 1e-7) + 1e-12


@pytest.mark.parametrize(("left", "right", "terms"), FACTORS)
def test_each_half_step_is_the_solution_of_its_least_squares_problem(left, right, terms):
    """Against a dense solve with every unknown of the right side written out."""
    weight = random(left[0] * right[0], left[1] * right[1])
    x = correlated(400, weight.shape[1])
    metric = metric_of(x)
    start = nearest_kronecker(weight, left, right, terms)
    fitted, right_factors = refit_kronecker(weight, *start, metric)
    unknowns = []
    for term in range(terms):
        for index in range(right[0] * right[1]):
            unit = torch.zeros(right[0] * right[1], dtype=torch.float64)
            unit[index] = 1
            product = torch.kron(fitted[term], unit.view(right))
            unknowns.append(metric.whiten(product).flatten())
    solved = torch.linalg.lstsq(
        torch.stack(unknowns, 1), metric.whiten(weight).flatten(), driver="gelsd"
    ).solution
    mine = metric.squared_norm(weight - dense((fitted, right_factors)))
    best = torch.stack(unknowns, 1) @ solved - metric.whiten(weight).flatten()
    assert mine == pytest.approx(float(best.square().sum()), rel=1e-5, abs=1e-8)


def test_a_weight_that_the_terms_can_represent_is_recovered_through_outputs():
    truth = (random(2, 6, 5), random(2, 3, 4, seed=5))
    weight = dense(truth)
    metric = metric_of(correlated(400, 20))
    part = PartShape(left=(6, 5), right=(3, 4), num_terms=2)
    assert SumFit(weight, FactorizedShape(parts=(part,)), metric).improve().error < 1e-5


def test_a_mixed_sum_is_recovered_and_is_never_worse_than_its_first_fit():
    low = random(12, 2) @ random(2, 20, seed=3)
    weight = low + torch.kron(random(6, 5, seed=7), random(2, 4, seed=8))
    shape = FactorizedShape(parts=(
        low_rank_shape(12, 20, 2), PartShape(left=(6, 5), right=(2, 4)),
    ))  # fmt: skip
    fit = SumFit(weight, shape)
    first = fit.error
    assert fit.improve(sweeps=400, tolerance=1e-9).error <= first
    assert fit.error < 0.02


def test_parts_fitted_to_outputs_beat_parts_fitted_to_weights_on_outputs():
    weight, x = random(12, 24), correlated(500, 24)
    metric = metric_of(x)
    for right in ((1, 2), (2, 2), (3, 4)):
        shape = FactorizedShape(
            parts=(PartShape(left=(12 // right[0], 24 // right[1]), right=right, num_terms=2),)
        )
        plain = SumFit(weight, shape).layer(torch.float64).materialize()
        aware = SumFit(weight, shape, metric).improve()
        assert aware.error <= metric.relative_error(weight, plain) + 1e-9


def test_the_layer_computes_what_was_fitted():
    weight = random(12, 20)
    shape = FactorizedShape(parts=(
        low_rank_shape(12, 20, 3), PartShape(left=(6, 5), right=(2, 4), num_terms=2),
    ))  # fmt: skip
    fit = SumFit(weight, shape)
    layer = fit.layer(torch.float64)
    assert layer.shape == shape
    error = Metric().relative_error(weight, layer.materialize())
    assert error == pytest.approx(fit.error, rel=1e-9)
    x = random(5, 20, seed=9)
    assert torch.allclose(layer(x), x @ layer.materialize().T)


def test_balanced_factors_have_equal_norms_and_the_same_product():
    factors = (random(3, 4, 2) * 100, random(3, 2, 5, seed=2))
    left, right = balanced(factors)
    assert torch.allclose(dense((left, right)), dense(factors))
    assert torch.allclose(left.flatten(1).norm(dim=1), right.flatten(1).norm(dim=1))
    zero = balanced((torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)))
    assert all(torch.isfinite(factor).all() for factor in zero)


def test_the_target_is_the_least_squares_weight_for_the_inputs_seen():
    teacher, weight = correlated(500, 10), random(6, 10)
    seen = teacher + 0.3 * random(500, 10, seed=4)
    metric = metric_of(seen)
    target = target_weight(weight, metric, teacher.T @ seen / len(seen))
    expected = torch.linalg.lstsq(seen, teacher @ weight.T).solution.T
    # In the outputs: a damped direction that is hardly seen hardly matters.
    off = torch.linalg.norm(seen @ (target - expected).T) / torch.linalg.norm(seen @ expected.T)
    assert off < 1e-4
    assert torch.equal(target_weight(weight, metric, None), weight)


@pytest.mark.parametrize("rank", [0, 8])
def test_a_rank_out_of_range_is_refused(rank):
    with pytest.raises(ValueError, match=f"rank={rank} must be between 1 and 7"):
        nearest_low_rank(random(7, 9), rank)


def test_other_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"moment has shape \(2, 3\)"):
        Metric(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="the parts"):
        SumFit(random(3, 3), FactorizedShape(parts=(low_rank_shape(4, 3, 1),)))
    assert rank_for(100, 10, 20) == 3
    assert rank_for(10_000, 10, 20) == 10


@pytest.mark.parametrize(("moment", "message"), [
    (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), r"not positive semi-definite .*eigenvalue is -1"),
    (torch.tensor([[1.0, torch.nan], [torch.nan, 1.0]]), "entries that are not finite"),
    (torch.full((2, 2), torch.inf), "entries that are not finite"),
])  # fmt: skip
def test_what_is_no_second_moment_is_refused(moment, message):
    with pytest.raises(ValueError, match=message):
        Metric(moment)


def test_inputs_that_are_always_zero_leave_the_nearest_weight():
    weight, zero = random(4, 3), torch.zeros(3, 3, dtype=torch.float64)
    metric = Metric(zero)
    assert metric.relative_error(weight, weight / 2) == pytest.approx(0.5)
    torch.testing.assert_close(target_weight(weight, metric, zero), weight.double())
    found = dense(nearest_low_rank(weight, 1, metric))
    torch.testing.assert_close(found, dense(nearest_low_rank(weight, 1)))
