"""A pivoted low-rank matrix is its dense weight, as a layer, as a table, and in its gradients."""

import pytest
import torch
from naive_kronecker import draw
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mobilellm.layers import parse_layer_shape
from mobilellm.layers.factorized import FactorizedEmbedding, FactorizedLinear, FactorizedShape
from mobilellm.layers.kronecker import KroneckerLinear
from mobilellm.layers.part_shape import PartShape, low_rank_shape, rank_for
from mobilellm.layers.pivoted import PivotedLinear


def make_part(rows=12, columns=20, rank=5):
    pivots, coefficients = draw(rank, columns), draw(rows - rank, rank, seed=1)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(2))
    return PivotedLinear(pivots, coefficients, order)


def naive(part):
    """Row by row."""
    rank = len(part.pivots)
    rows = []
    for place in part.row_order.tolist():
        if place < rank:
            rows.append(part.pivots[place])
        else:
            factors = zip(part.coefficients[place - rank], part.pivots, strict=True)
            rows.append(sum(factor * pivot for factor, pivot in factors))
    return torch.stack(rows)


@pytest.mark.parametrize("size", [(), (7,), (2, 3), (0, 4)], ids=str)
def test_the_layer_and_its_gradients_are_those_of_the_dense_weight(size):
    part, x = make_part(), draw(*size, 20).requires_grad_()
    torch.testing.assert_close(part.materialize(), naive(part))
    torch.testing.assert_close(part(x), x @ naive(part).T)
    wanted = [x, part.pivots, part.coefficients]
    goal = draw(*size, 12, seed=3)
    own = torch.autograd.grad((part(x) * goal).sum(), wanted)
    dense = torch.autograd.grad((x @ naive(part).T * goal).sum(), wanted)
    torch.testing.assert_close(own, dense)


def test_a_table_serves_both_ends():
    kronecker = KroneckerLinear(draw(2, 6, 5), draw(2, 2, 4, seed=1))
    table = FactorizedEmbedding([make_part(), kronecker], row_order=torch.randperm(12))
    ids, hidden = torch.randint(12, (2, 7)), draw(2, 7, 20)
    torch.testing.assert_close(table(ids), table.materialize()[ids])
    torch.testing.assert_close(table.unembed(hidden), hidden @ table.materialize().T)
    assert table(ids[:0]).shape == (0, 7, 20)


def test_it_counts_what_it_has_and_runs():
    shape = FactorizedShape(parts=(low_rank_shape(12, 20, 5, pivoted=True),))
    assert str(shape) == "pivoted 5 x (12x1)⊗(1x20)"
    assert shape.short_text() == "pivoted rank 5"
    assert FactorizedShape.short_summary([shape, FactorizedShape(parts=(
        low_rank_shape(12, 20, 7, pivoted=True),))]) == "pivoted rank 5-7"  # fmt: skip
    assert parse_layer_shape(shape.to_dict()) == shape
    layer = FactorizedLinear([make_part()])
    assert layer.shape == shape
    cost = shape.cost((12, 20))
    assert cost.parameters == cost.matrix_parameters == 5 * (12 + 20 - 5)
    assert cost.parameters == sum(p.numel() for p in layer.parameters())
    assert shape.file_bits((12, 20), 16) == 16 * cost.parameters + 32 * 12
    with FlopCounterMode(display=False) as counter:
        layer(torch.zeros(1, 20, dtype=torch.float64))
    assert counter.get_total_flops() == shape.flops
    with torch.device("meta"):
        empty = FactorizedLinear.empty(shape)
    empty.load_state_dict(layer.state_dict(), assign=True)
    assert empty.materialize().equal(layer.materialize())
    part = empty.parts[0]
    part.reset_buffers_()
    assert part.row_order.tolist() == list(range(12))


def test_initial_entries_have_the_standard_deviation():
    shape = FactorizedShape(parts=(low_rank_shape(900, 400, 50, pivoted=True),) * 2)
    layer = FactorizedLinear.empty(shape)
    for name, parameter in layer.named_parameters():
        nn.init.normal_(parameter, std=shape.parameter_std(name, 0.02))
    assert layer.materialize().std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(("rows", "columns"), [(17, 6), (6, 17), (9, 9), (2, 7)])
def test_the_rank_is_the_largest_that_the_budget_allows(rows, columns):
    for parameters in range(0, rows * columns + 5):
        allowed = [
            rank
            for rank in range(1, min(rows - 1, columns) + 1)
            if low_rank_shape(rows, columns, rank, pivoted=True).parameters <= parameters
        ]
        assert rank_for(parameters, rows, columns, pivoted=True) == max(allowed, default=0)


def test_the_protocol_allows_rank_26_instead_of_23():
    assert rank_for(172 * 64 / 2, 172, 64) == 23
    assert rank_for(172 * 64 / 2, 172, 64, pivoted=True) == 26
    assert low_rank_shape(9, 12, 3, pivoted=True).max_terms == 8


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"pivoted=True needs factors of low rank.*left is \(6, 2"):
        PartShape(left=(6, 2), right=(2, 2), pivoted=True)
    with pytest.raises(ValueError, match=r"num_terms=6 of a pivoted part must be below its 6 rows"):
        low_rank_shape(6, 9, 6, pivoted=True)
    with pytest.raises(ValueError, match=r"coefficients \(7, 4\); give \(rank, in\) and \(out"):
        PivotedLinear(draw(5, 20), draw(7, 4), torch.arange(12))
    with pytest.raises(ValueError, match=r"row_order of shape \(11,\) must be a permutation"):
        PivotedLinear(draw(5, 20), draw(7, 5), torch.arange(11))
