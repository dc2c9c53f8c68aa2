"""A sum of several parts is its dense weight, as a layer and as a table of embeddings."""

import itertools

import pytest
import torch
from naive_kronecker import draw, sum_of_products
from test_kronecker_linear import SIZES, make_layer
from torch import nn

from mobilellm.layers.factorized import FactorizedEmbedding, FactorizedLinear
from mobilellm.layers.kronecker import KroneckerLinear


def factorized(kind, orders: tuple[bool, bool], **arguments):
    """12 x 20 of three unlike parts."""
    shapes = [((4, 5), (3, 4), 2), ((12, 1), (1, 20), 3), ((2, 20), (6, 1), 1)]
    parts = [make_layer(*shape) for shape in shapes]
    stored = [torch.randperm(n) if on else None for n, on in zip((12, 20), orders, strict=True)]
    return kind(parts, row_order=stored[0], column_order=stored[1], **arguments)


ORDERS = list(itertools.product([False, True], repeat=2))


@pytest.mark.parametrize("orders", ORDERS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_sum_of_parts_is_its_dense_weight(orders, size):
    layer = factorized(FactorizedLinear, orders, bias=draw(12))
    x = draw(*size, 20)
    wanted = nn.functional.linear(x, layer.materialize(), layer.bias)
    torch.testing.assert_close(layer(x), wanted)
    total = sum(part.materialize() for part in layer.parts)
    if orders[0]:
        total = total[layer.row_order]
    dense = layer.materialize()
    if orders[1]:
        dense = dense[:, layer.column_order]
    torch.testing.assert_close(dense, total)


@pytest.mark.parametrize("orders", ORDERS)
def test_a_factorised_table_serves_both_ends(orders):
    table = factorized(FactorizedEmbedding, orders)
    ids, hidden = torch.randint(12, (2, 7)), draw(2, 7, 20)
    torch.testing.assert_close(table(ids), table.materialize()[ids])
    torch.testing.assert_close(table.unembed(hidden), hidden @ table.materialize().T)
    assert table(ids[:0]).shape == (0, 7, 20)


def test_a_kronecker_table():
    table = FactorizedEmbedding([KroneckerLinear(draw(2, 6, 5), draw(2, 2, 3, seed=1))])
    dense = sum_of_products(draw(2, 6, 5), draw(2, 2, 3, seed=1))
    torch.testing.assert_close(table(torch.arange(12)), dense)
    torch.testing.assert_close(table.unembed(draw(4, 15)), draw(4, 15) @ dense.T)


@pytest.mark.parametrize("orders", ORDERS)
def test_a_layer_of_a_shape_has_that_shape(orders):
    layer = factorized(FactorizedLinear, orders)
    shape = layer.shape
    assert (shape.row_permutation, shape.column_permutation) == orders
    empty = FactorizedLinear.empty(shape, bias=True)
    assert empty.shape == shape
    assert sum(p.numel() for p in layer.parameters()) == shape.parameters
    empty.load_state_dict(layer.state_dict() | {"bias": torch.zeros(12)})
    torch.testing.assert_close(empty.materialize(), layer.materialize().float())
    empty.reset_buffers_()
    for order in (empty.row_order, empty.column_order):
        assert order is None or order.equal(torch.arange(len(order), dtype=torch.int32))


def test_parts_that_do_not_belong_together_are_refused():
    part = make_layer((3, 2), (2, 2), 1)
    with pytest.raises(ValueError, match=r"the parts have the sizes 6x4, 6x5; give parts of the"):
        FactorizedLinear([part, make_layer((6, 1), (1, 5), 1)])
    with pytest.raises(ValueError, match="needs at least one part"):
        FactorizedLinear([])
    with pytest.raises(ValueError, match=r"part 1 has a bias; give the bias to the whole"):
        FactorizedLinear([part, make_layer((3, 2), (2, 2), 1, bias=True)])


def test_orders_and_biases_of_other_sizes_are_refused():
    part = make_layer((3, 2), (2, 2), 1)
    with pytest.raises(ValueError, match=r"bias has shape \(4,\); give \(6,\) or None"):
        FactorizedLinear([part], draw(4))
    with pytest.raises(ValueError, match=r"row_order of shape .* must be a permutation of 0…5"):
        FactorizedLinear([part], row_order=torch.arange(4))
    with pytest.raises(ValueError, match=r"column_order of shape .* must be a permutation of 0…3"):
        FactorizedLinear([part], column_order=torch.tensor([0, 1, 1, 3]))
