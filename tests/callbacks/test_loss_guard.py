"""Bad steps: the run stops, or skips them exactly, whatever process it goes on in."""

import itertools
import math

import pytest
import torch
from poison import HardLabels, Poison
from small_run import SAMPLES, VOCAB, fit, make_data, make_model, make_module, read_rows

from mobilellm.callbacks.checkpoint import CheckpointCallback
from mobilellm.callbacks.loss_guard import LossGuardCallback
from mobilellm.optim import adamw, muon
from mobilellm.training.device_divergence import DeviceJudge
from mobilellm.training.divergence import DivergenceRule, RollbackRequest, TrainingDiverged

STEPS = 8
BAD = 3 * SAMPLES


@pytest.fixture(params=["host", pytest.param("device", marks=pytest.mark.slow)])
def judged(request, monkeypatch):
    """Where steps are judged: on a GPU, the host reads the decisions later."""
    if request.param == "device":
        monkeypatch.setattr("mobilellm.training.step_filters.JUDGED_ON_HOST", ())
    return request.param


def run(folder, *callbacks, steps=STEPS, resume=False, optimizer=adamw, log=1, every=1, **guard):
    callback = LossGuardCallback(**guard)
    saver = CheckpointCallback(folder / "checkpoints", every_steps=every)
    module = make_module(steps, optimizer=optimizer, log=log)
    fit(
        module, make_data(), folder, callbacks=[*callbacks, callback, saver],
        resume=saver.last_path if resume else None,
    )  # fmt: skip
    return module, callback


def naive_weights(skipped, optimizer):
    """The same training written out, without the updates of the steps in `skipped`."""
    module, data = make_module(STEPS, optimizer=optimizer), make_data()
    updates = module.configure_optimizers()
    for step, [batch] in zip(range(STEPS), data.train_dataloader(), strict=False):
        updates.zero_grad()
        logits = module.model(batch["input_ids"]).logits
        torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"].flatten()
        ).backward()
        torch.nn.utils.clip_grad_norm_(module.model.parameters(), 1.0)
        for group in updates.param_groups:
            group["lr"] = group["initial_lr"] * module.schedule(step, (step + 1) / STEPS)
        if step not in skipped:
            updates.step()
    return dict(module.model.named_parameters())


# Muon computes in bfloat16; the update of a step is about 1e-2.
@pytest.mark.parametrize(("optimizer", "tolerance"), [(adamw, 2e-6), (muon, 1e-4)])
def test_a_skipped_step_changes_nothing_and_is_counted(tmp_path, judged, optimizer, tolerance):
    module, guard = run(tmp_path, Poison([BAD]), action="skip", optimizer=optimizer)
    expected = naive_weights({3}, optimizer)
    for name, weight in module.model.named_parameters():
        torch.testing.assert_close(weight, expected[name], atol=tolerance, rtol=0)
    assert module.global_step == STEPS
    assert [row["step"] for row in read_rows(tmp_path)] == [str(n) for n in range(STEPS + 1)]
    [event] = guard.events
    assert (event["step"], event["action"]) == (4, "skip")
    assert (event["first_sample"], event["next_sample"]) == (BAD, BAD + SAMPLES)
    assert event["reason"].startswith("the gradient's norm is nan at train/loss ")
    assert guard.summary() == {"loss_guard": [event]}


def test_an_accepted_run_is_as_without_a_guard(tmp_path):
    module, guard = run(tmp_path, action="stop", spike_factor=3.0, window=2)
    expected = naive_weights((), adamw)
    for name, weight in module.model.named_parameters():
        torch.testing.assert_close(weight, expected[name], atol=2e-6, rtol=2e-5)
    assert guard.summary() == {}


def test_stop_leaves_the_checkpoint_before_the_step(tmp_path):
    message = (
        r"diverged at step 4: the gradient's norm is (nan|inf) .*; the step was not applied and "
        r"the run is stopped; start again with a lower optimizer\.learning_rate, or callb"
    )
    with pytest.raises(TrainingDiverged, match=message):
        run(tmp_path, Poison([BAD], math.inf))
    assert torch.load(tmp_path / "checkpoints/last.ckpt")["global_step"] == 3


def test_a_spike_is_skipped_and_not_remembered(tmp_path, judged):
    hard = HardLabels([BAD], VOCAB - 2)
    module, guard = run(tmp_path, hard, action="skip", window=2, spike_nats=0.1)
    [event] = guard.events
    assert event["step"] == 4
    assert "is far above" in event["reason"]
    assert len(guard.recent) == 2
    assert all(weight.isfinite().all() for weight in module.model.parameters())


def test_what_is_judged_by_goes_on_in_the_next_process(tmp_path, judged):
    options = {"action": "skip", "window": 3, "spike_nats": 0.1}
    hard = [HardLabels([BAD, BAD + 2 * SAMPLES], VOCAB - 2)]
    alone, guard = run(tmp_path / "alone", *hard, **options)
    with pytest.raises(RuntimeError, match="dies"):
        run(tmp_path / "killed", *hard, Dies(5), **options)
    resumed, other = run(tmp_path / "killed", *hard, resume=True, **options)
    assert len(guard.events) == 2
    assert other.state_dict() == guard.state_dict()
    for mine, theirs in zip(resumed.parameters(), alone.parameters(), strict=True):
        assert torch.equal(mine, theirs)


class Dies(HardLabels):
    """Ends the run before a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise RuntimeError("dies")


def test_skips_in_a_row_are_limited(tmp_path, judged):
    bad = [BAD, BAD + SAMPLES, BAD + 2 * SAMPLES]
    with pytest.raises(TrainingDiverged, match=r"step 6: .*: limit=2 steps were skipped"):
        run(tmp_path / "a", Poison(bad), action="skip", limit=2)
    run(tmp_path / "b", Poison([BAD, BAD + 2 * SAMPLES]), action="skip", limit=1)


def test_a_rollback_is_asked_for_with_a_checkpoint_from_the_start(tmp_path):
    with pytest.raises(RollbackRequest, match="step 1: the gradient's norm is nan") as caught:
        run(tmp_path, Poison([0]), action="rollback")
    assert caught.value.event["next_sample"] == SAMPLES
    assert torch.load(tmp_path / "checkpoints/last.ckpt")["global_step"] == 0


@pytest.mark.parametrize("every", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_a_run_ends_as_at_the_bad_step_if_it_is_read_later(tmp_path, monkeypatch, every):
    """At the checkpoint or the row of metrics that follows, and with the state before it."""
    monkeypatch.setattr("mobilellm.training.step_filters.JUDGED_ON_HOST", ())
    saved = tmp_path / "checkpoints/last.ckpt"
    with pytest.raises(TrainingDiverged, match="diverged at step 4: the gradient's norm is nan"):
        run(tmp_path / "stop", Poison([BAD]), log=6, every=every)
    with pytest.raises(RollbackRequest, match="step 4: the gradient's norm is nan") as caught:
        run(tmp_path, Poison([BAD, BAD + SAMPLES]), action="rollback", log=6, every=every)
    assert caught.value.event["next_sample"] == BAD + SAMPLES
    assert torch.load(saved)["global_step"] == (2 if every == 2 else 0)
    assert [row["step"] for row in read_rows(tmp_path)] == ["0", "1"]


def test_a_step_that_is_refused_on_the_device_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("mobilellm.training.step_filters.JUDGED_ON_HOST", ())
    module, guard = run(tmp_path, Poison([BAD]), action="skip", optimizer=muon, log=100, every=100)
    expected = naive_weights({3}, muon)
    for name, weight in module.model.named_parameters():
        torch.testing.assert_close(weight, expected[name], atol=1e-4, rtol=0)
    assert [event["step"] for event in guard.events] == [4]


def test_device_and_host_decide_equally():
    generator = torch.Generator().manual_seed(0)
    rules = [DivergenceRule(), DivergenceRule(window=3, spike_factor=1.05),
             DivergenceRule(window=4, spike_nats=0.2, spike_factor=1.3)]  # fmt: skip
    for rule, action in itertools.product(rules, ("skip", "stop")):
        losses = 2 + torch.rand(60, generator=generator) ** 4
        losses[[20, 21, 40]] = math.nan
        recent, skips, ended = [2.5], 1, False
        judge = DeviceJudge(
            rule, action=action, limit=2, recent=recent, skips=skips, device=torch.device("cpu")
        )
        for loss in losses:
            is_bad = rule.reason(float(loss), 1.0, recent) is not None
            assert bool(judge.refuses(loss, torch.ones(()))) == (is_bad or ended)
            skips = skips + 1 if is_bad or ended else 0
            ended = ended or (skips > 2 if action == "skip" else is_bad)
            if skips == 0:
                recent = [*recent, float(loss)][-rule.window :]
        assert ended or rule is rules[0]


def test_a_rollback_needs_checkpoints():
    with pytest.raises(ValueError, match=r"action=rollback needs checkpoints, but"):
        fit(make_module(2), make_data(), callbacks=[LossGuardCallback(action="rollback")])


def test_bad_choices_are_refused():
    with pytest.raises(ValueError, match="action='halt' is not known; use one of stop, skip, roll"):
        LossGuardCallback(action="halt")
    with pytest.raises(ValueError, match="limit=0 must be a whole number of at least 1"):
        LossGuardCallback(limit=0)


def test_a_poisoned_weight_is_found_without_clipping(tmp_path):
    model = make_model()
    with torch.no_grad():
        model.norm.weight[0] = math.nan
    module = make_module(2, model=model, gradient_clip_norm=None, log=100, start=False)
    with pytest.raises(TrainingDiverged, match="step 1: train/loss is nan"):
        fit(module, make_data(), callbacks=[LossGuardCallback()])
