"""A layer of Kronecker products is the dense layer of their sum."""

import itertools

import pytest
import torch
from naive_kronecker import SHAPES, draw, sum_of_products
from torch import nn

from mobilellm.layers.kronecker import KroneckerLinear

# Further dimensions of the inputs.
SIZES = [(), (3,), (0,), (2, 3), (2, 0, 3)]


def make_layer(left, right, terms, *, bias=False) -> KroneckerLinear:
    rows = left[0] * right[0]
    return KroneckerLinear(
        draw(terms, *left), draw(terms, *right, seed=1), draw(rows, seed=2) if bias else None
    )


@pytest.mark.parametrize(("left", "right", "terms"), SHAPES, ids=str)
@pytest.mark.parametrize("right_first", [False, True])
def test_both_orders_are_the_product(left, right, terms, right_first):
    for size, bias in zip(SIZES, itertools.cycle([False, True]), strict=False):
        layer = make_layer(left, right, terms, bias=bias)
        layer._right_first = right_first
        x = draw(*size, layer.in_features, seed=3).requires_grad_()
        weight = sum_of_products(layer.left, layer.right)
        wanted = nn.functional.linear(x, weight, layer.bias)
        given = layer(x)
        torch.testing.assert_close(layer.materialize(), weight)
        torch.testing.assert_close(given, wanted)
        inputs = [x, *layer.parameters()]
        gradient = draw(*wanted.shape, seed=4)
        torch.testing.assert_close(
            torch.autograd.grad(given, inputs, gradient),
            torch.autograd.grad(wanted, inputs, gradient),
        )


def test_the_cheaper_order_is_taken():
    assert make_layer((12, 2), (2, 9), 1)._right_first
    assert not make_layer((2, 12), (9, 2), 1)._right_first


@pytest.mark.parametrize(("left", "right", "terms"), SHAPES, ids=str)
def test_rows_are_those_of_the_product(left, right, terms):
    layer = make_layer(left, right, terms)
    indices = torch.randint(layer.out_features, (4, 3))
    torch.testing.assert_close(layer.rows(indices), layer.materialize()[indices])
    assert layer.rows(indices[:0]).shape == (0, 3, layer.in_features)


def test_factors_and_biases_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"left has shape \(3, 2\) and right \(1, 2, 2\); give"):
        KroneckerLinear(draw(3, 2), draw(1, 2, 2))
    with pytest.raises(ValueError, match=r"left has shape \(2, 3, 2\) and right \(1, 2, 2\)"):
        KroneckerLinear(draw(2, 3, 2), draw(1, 2, 2))
    with pytest.raises(ValueError, match=r"bias has shape \(4,\); give \(6,\) or None"):
        KroneckerLinear(draw(1, 3, 2), draw(1, 2, 2), draw(4))
