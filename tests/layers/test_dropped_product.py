"""Dropout before a matrix against torch's own operations with the same values dropped."""

import pytest
import torch
import torch.nn.functional as F

from mobilellm.layers.dropped_product import dropped_product


def kept_values(shape, rate):
    """What the next call keeps, drawn from the same state of the random numbers."""
    state = torch.get_rng_state()
    kept = torch.empty(shape, dtype=torch.bool).bernoulli_(1 - rate)
    torch.set_rng_state(state)
    return kept


@pytest.mark.parametrize("rate", [0.1, 0.7])
def test_values_and_gradients_are_those_of_the_dropped_input(rate):
    torch.manual_seed(1)
    x = torch.randn(3, 7, 10, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 10, dtype=torch.float64, requires_grad=True)
    output = torch.randn(3, 7, 4, dtype=torch.float64)
    kept = kept_values(x.shape, rate)
    y = dropped_product(x, weight, rate)
    given = torch.autograd.grad(y, (x, weight), output)
    expected = F.linear(x * kept / (1 - rate), weight)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(given, torch.autograd.grad(expected, (x, weight), output))
    assert 0 < kept.sum() < kept.numel()


def test_without_dropout_it_is_the_product():
    x, weight = torch.randn(2, 6), torch.randn(3, 6)
    torch.testing.assert_close(dropped_product(x, weight, 0.0), F.linear(x, weight))


def test_autocast_and_frozen_inputs_keep_their_types():
    x = torch.randn(5, 6, dtype=torch.bfloat16)
    weight = torch.randn(3, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = dropped_product(x, weight, 0.5)
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    assert weight.grad is not None and weight.grad.dtype == torch.float32
    assert x.grad is None
