"""AdamW and Muon against torch's own optimizers run apart."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F

from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.optim import adamw, muon
from mobilellm.optim.parameter_groups import (
    parameter_groups,
    parameters_by_role,
    set_learning_rates,
)


def make_model(**changes):
    torch.manual_seed(0)
    config = {
        "vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_blocks": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "qk_norm": "rms",
    } | changes  # fmt: skip
    return MobileLLM(ModelConfig(**config))


def train(model, optimizer, steps, start=0):
    losses = []
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(0, 61, (2, 9), generator=generator)
        logits = model(ids[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("repeats", [1, 2])
def test_every_parameter_has_one_role(tied, repeats):
    model = make_model(tie_word_embeddings=tied, block_repeats=repeats)
    roles = parameters_by_role(model)
    listed = [p for parameters in roles.values() for p in parameters]
    assert sorted(map(id, listed)) == sorted(map(id, model.parameters()))
    assert all(p.ndim == 1 for p in roles["vector"])
    assert len(roles["embedding"]) == (1 if tied else 2)
    model.blocks.requires_grad_(False)
    assert parameters_by_role(model)["matrix"] == []


def test_decay_by_role():
    decays = {
        g["role"]: g["weight_decay"] for g in parameter_groups(make_model(), weight_decay=0.3)
    }
    assert decays == {"matrix": 0.3, "embedding": 0.3, "vector": 0.0}
    groups = parameter_groups(make_model(), weight_decay=0.3, decay_embeddings=False)
    assert {g["role"]: g["weight_decay"] for g in groups}["embedding"] == 0.0


def test_adamw_is_the_closed_form():
    model = make_model()
    rate, decay, (beta1, beta2), eps = 1e-2, 0.1, (0.9, 0.95), 1e-8
    optimizer = adamw(model, learning_rate=rate, weight_decay=decay)
    before = {name: p.detach().clone().double() for name, p in model.named_parameters()}
    train(model, optimizer, 1)
    for name, parameter in model.named_parameters():
        gradient = parameter.grad.double()
        first = (1 - beta1) * gradient / (1 - beta1)
        second = (1 - beta2) * gradient**2 / (1 - beta2)
        shrink = 1 - rate * decay * (parameter.ndim > 1)
        expected = before[name] * shrink - rate * first / (second.sqrt() + eps)
        torch.testing.assert_close(parameter.double(), expected, rtol=1e-5, atol=1e-7)


def test_muon_equals_torchs_two_optimizers_run_apart():
    ours, theirs = make_model(tie_word_embeddings=False), make_model(tie_word_embeddings=False)
    optimizer = muon(ours, learning_rate=3e-3, muon_learning_rate_ratio=2.0)
    roles = parameters_by_role(theirs)
    options = {"betas": (0.9, 0.95), "lr": 3e-3, "fused": True}
    apart = [
        torch.optim.Muon(
            roles["matrix"], lr=6e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(roles["embedding"], weight_decay=0.1, **options),
        torch.optim.AdamW(roles["vector"], weight_decay=0.0, **options),
    ]
    train(ours, optimizer, 5)
    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(0, 61, (2, 9), generator=generator)
        loss = F.cross_entropy(theirs(ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten())
        theirs.zero_grad()
        loss.backward()
        for part in apart:
            part.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", [adamw, muon])
def test_resume_is_exact_and_loads_with_weights_only(make):
    alone, model = make_model(), make_model()
    reference = train(alone, make(alone, learning_rate=1e-2), 8)
    optimizer = make(model, learning_rate=1e-2)
    first = train(model, optimizer, 4)
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    resumed = make_model()
    resumed.load_state_dict(saved["model"])
    fresh = make(resumed, learning_rate=123.0)
    fresh.load_state_dict(saved["optimizer"])
    assert first + train(resumed, fresh, 4, start=4) == reference


def test_muon_calls_the_closure_once_and_before_the_step():
    model = make_model()
    optimizer = muon(model, learning_rate=1e-2)
    calls = []

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        loss = model(torch.arange(8).view(1, 8)).logits.square().mean()
        loss.backward()
        return loss

    assert optimizer.step(closure) > 0
    assert len(calls) == 1


def test_setting_the_rate_of_the_groups_reaches_muon():
    model = make_model()
    optimizer = muon(model, learning_rate=1e-2)
    before = copy.deepcopy(model.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(model, optimizer, 2)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("make", [adamw, muon])
def test_bad_values_are_refused(make):
    with pytest.raises(ValueError, match="learning_rate=0 must be above 0"):
        make(make_model(), learning_rate=0)
    with pytest.raises(ValueError, match="weight_decay=-1 must be at least 0; 0 turns it off"):
        make(make_model(), learning_rate=1e-3, weight_decay=-1)
    with pytest.raises(ValueError, match="no parameter with requires_grad; unfreeze"):
        make(make_model().requires_grad_(False), learning_rate=1e-3)


def test_bad_values_of_muon_are_refused():
    with pytest.raises(ValueError, match="muon_learning_rate_ratio=-1 must be above 0"):
        muon(make_model(), learning_rate=1e-3, muon_learning_rate_ratio=-1)
    with pytest.raises(ValueError, match="'keller' is not known; use one of match_rms_adamw, orig"):
        muon(make_model(), learning_rate=1e-3, adjust_learning_rate="keller")


@pytest.mark.parametrize("make", [adamw, muon])
def test_the_logged_learning_rate_is_the_configured_one(make):
    ratio = {} if make is adamw else {"muon_learning_rate_ratio": 5.0}
    optimizer = make(make_model(), learning_rate=2e-3, **ratio)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    rates = set_learning_rates(optimizer, 0.5)
    assert rates.pop("learning_rate") == pytest.approx(1e-3)
    assert rates == ({} if make is adamw else {"learning_rate/muon": pytest.approx(5e-3)})


def test_norm_weights_have_a_learning_rate_of_their_own():
    optimizer = muon(
        make_model(), learning_rate=1e-2, muon_learning_rate_ratio=0.25,
        vector_learning_rate_ratio=0.05,
    )  # fmt: skip
    rates = {group["role"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({"matrix": 2.5e-3, "embedding": 1e-2, "vector": 5e-4})
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    # The log has the rates of the embedding and of Muon.
    logged = set_learning_rates(optimizer, 0.5)
    assert logged == pytest.approx({"learning_rate": 5e-3, "learning_rate/muon": 1.25e-3})
