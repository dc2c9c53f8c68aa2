"""GPTQ against optimal brain surgery step by step, and search of scales against brute force."""

from functools import partial

import pytest
import torch

from mobilellm.compression.algorithms.activation_scales import scaled_error, search_scales
from mobilellm.compression.algorithms.gptq import gptq
from mobilellm.compression.algorithms.metric import Metric
from mobilellm.layers.number_format import NumberFormat
from mobilellm.layers.quantization_grid import Grid, nearest_values

INT4 = NumberFormat(bits=4, group=32)
FORMATS = [
    INT4, NumberFormat(bits=4), NumberFormat(bits=4, group=8, symmetric=False),
    NumberFormat(bits=4, group=32, levels="normal"), NumberFormat(bits=8, group=256),
]  # fmt: skip


def correlated(columns=256, seed=0):
    """A second moment of inputs that depend on each other and differ in size."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    common = normal(4 * columns, columns // 4) @ normal(columns // 4, columns)
    sizes = torch.logspace(-1, 1, columns, dtype=torch.float64)
    sizes = sizes[torch.randperm(columns, generator=generator)]
    x = (common + normal(4 * columns, columns)) * sizes
    return x.T @ x / len(x)


def random_weight(columns=256, rows=8):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def naive(weight, moment, number_format, order, refits):
    """Round a column, adjust all columns left by the inverse Hessian, and remove the column."""
    damped = moment + 0.01 * moment.diagonal().mean() * torch.eye(len(moment)).double()
    inverse, work = torch.linalg.inv(damped), weight.clone()
    grid, values = Grid.fit(weight, number_format), torch.zeros_like(weight)
    width = number_format.group or len(moment)
    for column in order:
        if refits and column % width == 0:
            fitted = Grid.fit(work[:, column : column + width], NumberFormat(
                bits=number_format.bits, symmetric=number_format.symmetric))  # fmt: skip
        group = fitted if refits else grid.of_group(column // width)
        current = work[:, [column]]
        values[:, [column]] = group.values_of(group.codes_of(current))
        error = (current - values[:, [column]]) / inverse[column, column]
        work -= error * inverse[column]
        inverse -= inverse[:, [column]] * inverse[column] / inverse[column, column]
    return values


@pytest.mark.parametrize("activation_order", [False, True])
@pytest.mark.parametrize("number_format", FORMATS, ids=str)
def test_columns_compensate_the_errors_of_earlier_ones(number_format, activation_order):
    weight, moment = random_weight(), correlated()
    codes, grid = gptq(weight, moment, number_format, activation_order=activation_order)
    order = [*range(256)]
    if activation_order:
        order = moment.diagonal().argsort(descending=True).tolist()
    refits = number_format.levels == "uniform" and not activation_order
    expected = naive(weight, moment, number_format, order, refits)
    torch.testing.assert_close(grid.values_of(codes), expected)
    metric = Metric(moment)
    nearest = metric.relative_error(weight, nearest_values(weight, number_format))
    assert metric.relative_error(weight, grid.values_of(codes)) < 0.8 * nearest


def test_independent_inputs_leave_nothing_to_compensate():
    weight, moment = random_weight(), torch.eye(256).double()
    codes, grid = gptq(weight, moment, INT4)
    assert torch.equal(grid.values_of(codes), nearest_values(weight, INT4))


def test_inputs_that_are_always_zero_get_no_weight():
    moment = correlated()
    moment[5], moment[:, 5] = 0, 0
    codes, grid = gptq(random_weight(), moment, INT4)
    assert not grid.values_of(codes)[:, 5].any()


def test_the_best_scales_are_those_of_the_smallest_error():
    weights, moment = [random_weight(rows=8), random_weight(rows=16) * 2], correlated()
    rounding = [partial(nearest_values, number_format=one) for one in (INT4, FORMATS[2])]
    metric, magnitudes = Metric(moment), moment.diagonal().sqrt()
    found = search_scales(weights, rounding, metric, magnitudes, num_exponents=8)
    tried = {}
    for exponent in range(8):
        scales = magnitudes ** (exponent / 8)
        scales /= (scales.max() * scales.min()).sqrt()
        error = sum(
            float(torch.trace(e @ metric.moment @ e.T))
            for e in (w - r(w * scales) / scales for w, r in zip(weights, rounding, strict=True))
        )
        tried[error] = scales
    best = min(tried)
    torch.testing.assert_close(found, tried[best])
    assert scaled_error(weights, rounding, metric, found) == pytest.approx(best)
    assert best < next(iter(tried)), "a scale of 1 is not the best for inputs of different sizes"
