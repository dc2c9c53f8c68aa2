"""The best shape and number of tokens for a budget, by a law with known parameters."""

import numpy as np
import pytest
from simulated_ladder import ladder, true_loss

from mobilellm.accounting import count_parameters, flops_per_token, weight_bytes
from mobilellm.evaluation.device_profile import DeviceProfile, MeasuredShape
from mobilellm.models import ModelConfig
from mobilellm.search.latency import LatencyModel
from mobilellm.search.loss_law import fit_loss_law
from mobilellm.search.shape_plan import (
    DEPTHS,
    Limits,
    ShapeFamily,
    plan_shape,
    tokens_by_flops,
    widths,
)

FAMILY = ShapeFamily(
    fields={"vocab_size": 512, "head_dim": 8}, group_size=1, feed_forward_ratio=8 / 3, alignment=2
)
LENGTH = 128


@pytest.fixture(scope="module")
def law():
    return fit_loss_law(ladder(0, seed_noise=0.003), samples=100)


def brute_force(flops, allowed=lambda config: True):
    """The lowest true loss over all depths and all multiples of the head width."""
    best = None
    for depth in DEPTHS[:9]:
        for width in range(8, 300, 8):
            config = FAMILY.config(depth, width)
            tokens = flops / flops_per_token(config, LENGTH).training
            if allowed(config):
                found = (true_loss(depth, width, tokens), depth, width, tokens)
                best = min(best, found) if best else found
    return best


@pytest.mark.parametrize("flops", [1e12, 3e13])
def test_the_loss_is_that_of_a_search_over_all_shapes(flops):
    exact = fit_loss_law(ladder(0), samples=3)
    plan = plan_shape(exact, FAMILY, tokens_by_flops(flops, LENGTH), Limits())
    loss, depth, width, tokens = brute_force(flops)
    assert plan.best.loss == pytest.approx(loss, rel=2e-4)
    assert plan.best.config.num_layers == depth
    assert plan.best.config.hidden_size == pytest.approx(width, rel=0.08)
    spent = plan.best.tokens * flops_per_token(plan.best.config, LENGTH).training
    assert spent == pytest.approx(flops, rel=1e-4)
    assert plan.best.tokens == pytest.approx(tokens, rel=0.2)


def test_shapes_are_those_of_the_family():
    config = FAMILY.config(3, 48)
    wanted = ModelConfig(
        vocab_size=512, hidden_size=48, intermediate_size=128, num_blocks=3, num_attention_heads=6
    )
    assert config == wanted
    steps = np.diff(widths(FAMILY))
    assert (steps >= 8).all()
    assert (steps % 8 == 0).all()


def test_limits_of_bytes(law):
    limit = 60_000
    limits = Limits(max_bytes=limit, bits=4)
    plan = plan_shape(law, FAMILY, tokens_by_flops(3e13, LENGTH), limits)
    free = plan_shape(law, FAMILY, tokens_by_flops(3e13, LENGTH), Limits())
    for candidate in (plan.best, *(other for other, _ in plan.others)):
        assert weight_bytes(candidate.config, 4) <= limit
    assert weight_bytes(free.best.config, 4) > limit
    assert plan.best.loss > free.best.loss
    cached = Limits(max_bytes=limit, bits=4, context=512)
    smaller = plan_shape(law, FAMILY, tokens_by_flops(3e13, LENGTH), cached).best
    cache = 512 * 2 * 2 * smaller.config.num_layers * smaller.config.hidden_size
    assert weight_bytes(smaller.config, 4) + cache <= limit


def milliseconds(config):
    """A device that takes time for each layer and for each weight that it reads."""
    return 0.1 + 0.2 * config.num_layers + 4e-6 * count_parameters(config).body


def profile(depths=(1, 2, 4, 8), sizes=(16, 32, 64, 128)):
    shapes = [
        MeasuredShape(model=config, decode_ms_per_token=milliseconds(config))
        for config in (FAMILY.config(depth, width) for depth in depths for width in sizes)
    ]
    return LatencyModel(
        DeviceProfile(
            accelerator="cpu", device="a processor", threads=1, context=64, decode_tokens=8,
            rounds=3, versions={}, command="", shapes=tuple(shapes),
        )
    )  # fmt: skip


def test_limits_of_latency(law):
    """The shapes are the best of those that are fast enough and in the range of the profile."""
    limits = Limits(max_latency_ms=0.9, latency=profile())
    plan = plan_shape(law, FAMILY, tokens_by_flops(3e13, LENGTH), limits)
    free = plan_shape(law, FAMILY, tokens_by_flops(3e13, LENGTH), Limits())
    assert milliseconds(free.best.config) > 0.9
    found = [plan.best, *(other for other, _ in plan.others)]
    assert {candidate.config.num_layers for candidate in found} == {1, 2, 3}
    for candidate in found:
        assert milliseconds(candidate.config) <= 0.9 * 1.001
        assert 16 <= candidate.config.hidden_size <= 128
    with pytest.raises(ValueError, match="max_latency_ms and latency limit shapes together"):
        Limits(max_latency_ms=1.0)


def test_intervals_and_the_fitted_range(law):
    plan = plan_shape(law, FAMILY, tokens_by_flops(3e15, LENGTH), Limits())
    assert plan.expected.low < plan.expected.loss < plan.expected.high
    assert plan.outside["body"] > 2
    differences = [difference for _, difference in plan.others]
    assert all(d.low <= d.loss <= d.high for d in differences)
    assert [d.loss for d in differences] == sorted(d.loss for d in differences)
    assert plan.is_decided == all(d.low > 0 for d in differences)
    inside = plan_shape(law, FAMILY, tokens_by_flops(2e12, LENGTH), Limits())
    assert inside.outside["tokens"] == inside.outside["body"] == 1


@pytest.mark.parametrize(
    ("flops", "limits", "message"),
    [
        (1e13, Limits(max_bytes=1000, bits=4), r"no shape meets max-bytes=1,000 at 4 bits: the "
                                               r"smallest, 1×8, has 2.\d+ kB; allow more bytes"),
        (1e13, Limits(max_latency_ms=0.2, latency=profile()),
         r"no shape meets max-latency-ms=0.2: the smallest in the device profile, 1×16, takes"),
        (1e13, Limits(max_latency_ms=9, latency=profile((65, 66, 67), (16, 128))),
         "no shape of the ladder lies in the device profile of 65 to 67 layers and widths of"),
        (1e5, Limits(), r"the compute budget trains the smallest shape, 1×8, on \d tokens, less "
                        r"than 0.5 per body parameter; give more FLOPs or hours"),
    ],
)  # fmt: skip
def test_refusals(law, flops, limits, message):
    with pytest.raises(ValueError, match=message):
        plan_shape(law, FAMILY, tokens_by_flops(flops, LENGTH), limits)
