"""The speed of training shapes, recovered from simulated runs."""

import numpy as np
import pytest

from mobilellm.accounting import flops_per_token
from mobilellm.models import ModelConfig
from mobilellm.search.training_rate import fit_training_rate

LENGTH = 128


def config(depth, width):
    return ModelConfig(
        vocab_size=512, hidden_size=width, intermediate_size=2 * width, num_blocks=depth,
        num_attention_heads=width // 8,
    )  # fmt: skip


def test_training_rates_are_recovered():
    """From runs whose seconds per token are a sum of a fixed time, layers and FLOPs."""
    random = np.random.default_rng(0)
    layers, flops, seconds = [], [], []
    for depth in (1, 2, 4, 8):
        for width in (32, 64, 128):
            layers.append(depth)
            flops.append(flops_per_token(config(depth, width), LENGTH).training)
            exact = 2e-6 + 5e-6 * depth + 4e-11 * flops[-1]
            seconds.append(exact * np.exp(random.normal(0, 0.02)))
    rate = fit_training_rate(layers, flops, seconds)
    assert rate.per_layer == pytest.approx(5e-6, rel=0.1)
    assert rate.per_flop == pytest.approx(4e-11, rel=0.1)
    large = config(16, 64)
    expected = 2e-6 + 16 * 5e-6 + 4e-11 * flops_per_token(large, LENGTH).training
    assert rate.seconds_per_token(large, LENGTH) == pytest.approx(expected, rel=0.1)


def test_no_shape_is_faster_than_the_fastest_run():
    """Small models whose time does not depend on FLOPs do not make large ones free."""
    shapes = [config(depth, width) for depth in (1, 2, 4) for width in (16, 32)]
    flops = [flops_per_token(shape, LENGTH).training for shape in shapes]
    seconds = [1e-4 * shape.num_layers for shape in shapes]
    rate = fit_training_rate([shape.num_layers for shape in shapes], flops, seconds)
    fastest = max(count / time for count, time in zip(flops, seconds, strict=True))
    large = config(4, 512)
    expected = flops_per_token(large, LENGTH).training / fastest
    assert rate.seconds_per_token(large, LENGTH) == pytest.approx(expected)
    assert rate.seconds_per_token(shapes[4], LENGTH) == pytest.approx(4e-4)
