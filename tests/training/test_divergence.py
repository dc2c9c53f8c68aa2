"""When a step counts as diverged, and what a rollback changes in a checkpoint."""

import math

import pytest

from mobilellm.training.divergence import DivergenceRule, rewind_past_bad_step


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_always_found(value):
    rule = DivergenceRule()
    assert rule.reason(value, 1.0, []) == f"train/loss is {value}"
    assert rule.reason(2.0, value, []) == f"the gradient's norm is {value} at train/loss 2"
    assert rule.reason(1e9, 1e9, [1.0] * 99) is None


def test_spikes_are_measured_against_the_median_of_a_full_window():
    recent = [3.0, 2.0, 50.0, 2.1]
    rule = DivergenceRule(window=4, spike_factor=2.0)
    assert rule.reason(5.0, 1.0, recent) is None
    assert "train/loss 5.2 is far above 2.55, the median of 4" in (
        rule.reason(5.2, 1, recent) or ""
    )
    assert rule.reason(5.2, 1.0, recent[:3]) is None
    nats = DivergenceRule(window=4, spike_nats=0.5)
    assert nats.reason(3.0, 1.0, recent) is None
    assert nats.reason(3.1, 1.0, recent) is not None
    both = DivergenceRule(window=4, spike_nats=0.5, spike_factor=9.0)
    assert both.reason(3.1, 1.0, recent) is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window=0 must be a whole number of at least 1"),
        ({"spike_factor": 1.0}, r"spike_factor=1\.0 must be above 1; null disables"),
        ({"spike_nats": 0}, "spike_nats=0 must be above 0; null disables"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DivergenceRule(**options)


def test_a_rollback_moves_the_place_in_the_data_and_nothing_else():
    state = {"recent": [1.0], "events": [], "in_a_row": 0}
    before = {
        "TokenDataModule": {"consumed_samples": 16}, "progress": {"step": 4, "tokens": 512},
        "callbacks": {"LossGuardCallback": state, "Other": {"a": 1}}, "state_dict": {"w": 1},
    }  # fmt: skip
    event = {"step": 6, "reason": "train/loss is nan", "action": "rollback", "next_sample": 24}
    after = rewind_past_bad_step(before, "LossGuardCallback", event)
    assert before["TokenDataModule"] == {"consumed_samples": 16}
    assert state["events"] == []
    assert after["TokenDataModule"] == {"consumed_samples": 24}
    [note] = after["callbacks"]["LossGuardCallback"]["events"]
    assert note == event | {"to_step": 4, "first_sample": 16}
    assert after["callbacks"]["LossGuardCallback"]["recent"] == [1.0]
    assert {k: after[k] for k in ("progress", "state_dict")} == {
        k: before[k] for k in ("progress", "state_dict")
    }
    assert after["callbacks"]["Other"] == {"a": 1}
