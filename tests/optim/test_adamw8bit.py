"""AdamW with moments of 8 bits against torch's AdamW."""

import pytest
import torch
from test_optimizers import make_model, train

from mobilellm.accounting.training_memory import optimizer_bytes
from mobilellm.optim import adamw, adamw8bit
from mobilellm.optim.parameter_groups import set_learning_rates
from mobilellm.training.background_writer import host_copy

# The first update compiles for seconds.
pytestmark = pytest.mark.slow
WIDE = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 128}


@pytest.fixture(autouse=True)
def needs_torchao():
    pytest.importorskip("torchao")


def trained(make, steps=20, **changes):
    model = make_model(**changes)
    optimizer = make(model, learning_rate=4e-3, weight_decay=0.3)
    for group in optimizer.param_groups:
        group["initial_lr"] = float(group["lr"])
    losses = []
    for step in range(steps):
        rates = set_learning_rates(optimizer, 1 - step / steps)
        losses += train(model, optimizer, 1, start=step % 4)
    assert rates == {"learning_rate": pytest.approx(4e-3 / steps)}
    return model, optimizer, losses


def test_small_parameters_are_updated_exactly():
    """Fewer than 4,096 numbers keep moments in floats."""
    (ours, _, _), (theirs, _, _) = trained(adamw8bit), trained(adamw)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_a_copy_for_the_background_shares_nothing():
    """Checkpoints are written while the next steps change the moments."""
    model, optimizer, _ = trained(adamw8bit, steps=2, **WIDE)
    copied = host_copy(optimizer.state_dict())
    before = moments(copied)
    assert all(map(torch.equal, before, moments(optimizer.state_dict())))
    train(model, optimizer, 3, start=5)
    assert all(map(torch.equal, before, moments(copied)))
    assert not any(map(torch.equal, before, moments(optimizer.state_dict())))


def moments(state):
    return [values["exp_avg"].dequantize().clone() for values in state["state"].values()]


def test_large_parameters_learn_the_same_with_a_quarter_of_the_memory():
    ours, optimizer, losses = trained(adamw8bit, **WIDE)
    theirs, _, expected = trained(adamw, **WIDE)
    assert losses[-1] == pytest.approx(expected[-1], abs=0.05) and losses[-1] < losses[0] - 0.5
    state = [s for p, s in optimizer.state.items() if p.numel() >= 4096]
    assert state and all(type(s["exp_avg"]).__name__ == "OptimState8bit" for s in state)
    held = sum(s[name].codes.nbytes + s[name].scale.nbytes for s in state
               for name in ("exp_avg", "exp_avg_sq"))  # fmt: skip
    count = sum(p.numel() for p in optimizer.state if p.numel() >= 4096)
    share = optimizer_bytes(ours.config, "adamw8bit") / optimizer_bytes(ours.config, "adamw")
    assert held / (8 * count) == pytest.approx(share, rel=1e-3)
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    assert any(not torch.equal(mine, other) for mine, other in pairs)
