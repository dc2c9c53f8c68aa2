"""The module against a bare loop over the same windows."""

import math

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from small_run import (
    LENGTH,
    SAMPLES,
    Tokens,
    fit,
    make_data,
    make_model,
    make_module,
    read_rows,
    without_times,
)

from mobilellm.data.windows import WindowBatchSampler, WindowDataset
from mobilellm.losses.loss_terms import LossTerm
from mobilellm.optim import adamw, muon
from mobilellm.training.datamodule import stack_windows
from mobilellm.training.execution import Execution

STEPS = 10


def bare_loop(model, steps, *, document_mask=False, clip=1.0):
    """Plain PyTorch: the same windows, AdamW from torch, all logits at once."""
    windows = WindowDataset(
        Tokens().tokens("train"), LENGTH, eos_token_id=2, document_mask=document_mask
    )
    order = WindowBatchSampler(
        len(windows), seed=3, samples_per_step=SAMPLES, micro_batch_size=SAMPLES
    )
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
    )
    losses = []
    for step, indices in zip(range(steps), order, strict=False):
        batch = stack_windows(windows, indices)
        share = (step + 1 - 3) / (steps - 3)
        falling = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * ((step + 1) / 3 if step < 3 else falling)
        mask = None
        if document_mask:
            ids = batch["document_ids"]
            mask = ids[:, :, None] == ids[:, None, :]
        logits = model(batch["input_ids"], attention_mask=mask).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


def losses_of(folder):
    return [float(row["train/loss"]) for row in read_rows(folder) if row["train/loss"]]


@pytest.mark.parametrize("document_mask", [False, True])
@pytest.mark.parametrize("clip", [0.3, None])
def test_losses_are_those_of_a_bare_loop(tmp_path, document_mask, clip):
    module = make_module(STEPS, gradient_clip_norm=clip)
    fit(module, make_data(document_mask=document_mask), tmp_path)
    expected = bare_loop(make_model(), STEPS, document_mask=document_mask, clip=clip)
    assert losses_of(tmp_path) == pytest.approx(expected, rel=1e-5)
    assert expected[-1] < expected[0] - 0.3


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
@pytest.mark.parametrize("optimizer", [adamw, muon])
def test_accumulation_changes_nothing(tmp_path, micro_batch_size, optimizer):
    # Masked labels: micro-batches with unequal numbers of tokens.
    runs = []
    for size in (SAMPLES, micro_batch_size):
        module = make_module(6, optimizer=optimizer)
        fit(module, make_data(size, document_mask=True), tmp_path / str(size))
        runs.append((losses_of(tmp_path / str(size)), module.validation_result))
    assert runs[0][0] == pytest.approx(runs[1][0], rel=2e-5)
    assert runs[0][1].loss == pytest.approx(runs[1][1].loss, rel=1e-5)


def test_what_is_logged(tmp_path):
    module = make_module(12, log=5, validate=4)
    trainer = fit(module, make_data(), tmp_path)
    rows = read_rows(tmp_path)
    assert [int(row["step"]) for row in rows] == [0, 1, 4, 5, 8, 10, 12]
    validated = [int(row["step"]) for row in rows if row["val/loss"]]
    assert validated == [0, 4, 8, 12]
    assert all(row["train/loss"] for row in rows[1:])
    assert [int(row["tokens"]) for row in rows] == [int(r["step"]) * 128 for r in rows]
    assert float(rows[1]["learning_rate"]) == pytest.approx(1e-2 / 3)
    assert float(rows[-1]["learning_rate"]) == pytest.approx(1e-3)
    assert module.finished
    assert trainer.global_step == 12


def test_the_gradient_norm_is_the_one_before_clipping(tmp_path):
    fit(make_module(1, gradient_clip_norm=1e-9), make_data(), tmp_path)
    model = make_model()
    bare_loop(model, 1, clip=None)
    expected = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert float(read_rows(tmp_path)[1]["gradient_norm"]) == pytest.approx(
        expected.item(), rel=1e-4
    )


def test_a_budget_of_seconds_ends_a_run(tmp_path):
    from mobilellm.training.training_budget import TrainingBudget

    module = make_module()
    module.budget = TrainingBudget(tokens_per_step=LENGTH * SAMPLES, max_seconds=1.0)
    trainer = fit(module, make_data(), tmp_path)
    assert trainer.global_step > 1
    assert module.finished
    assert 1.0 <= module.elapsed_seconds < 5.0
    assert module.validation_step == trainer.global_step
    assert float(read_rows(tmp_path)[-1]["learning_rate"]) < 5e-3


def test_activation_checkpointing_changes_nothing(tmp_path):
    fit(make_module(4), make_data(), tmp_path / "off")
    fit(
        make_module(4, execution=Execution(activation_checkpointing=True)),
        make_data(),
        tmp_path / "on",
    )
    assert losses_of(tmp_path / "off") == pytest.approx(losses_of(tmp_path / "on"), rel=1e-6)


class HiddenNorm(Callback):
    """A further loss: the mean square of the hidden states."""

    capture = ("hidden_states",)

    def __init__(self, weight):
        self.weight = weight
        self.captured = 0

    def loss_terms(self, module, batch, output):
        self.captured = len(output.captured["hidden_states"])
        counted = batch["labels"] != -100
        return {"hidden_norm": LossTerm(output.hidden[counted].square().mean(), self.weight)}


def test_loss_terms_are_weighted_logged_and_averaged_by_tokens(tmp_path):
    for size in (SAMPLES, 2):
        callback = HiddenNorm(0.5)
        data = make_data(size, document_mask=True)
        fit(make_module(3), data, tmp_path / str(size), callbacks=[callback])
        assert callback.captured == 2
    whole, accumulated = (read_rows(tmp_path / str(size)) for size in (SAMPLES, 2))
    for name in ("train/loss", "train/loss/hidden_norm", "gradient_norm"):
        for a, b in zip(whole[1:], accumulated[1:], strict=True):
            assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-4)
    fit(make_module(3), make_data(document_mask=True), tmp_path / "without")
    without = read_rows(tmp_path / "without")
    assert without[1]["train/loss"] == whole[1]["train/loss"]
    assert without[3]["train/loss"] != whole[3]["train/loss"]


def test_loss_term_of_weight_zero_changes_nothing(tmp_path):
    fit(make_module(3), make_data(), tmp_path / "off")
    fit(make_module(3), make_data(), tmp_path / "zero", callbacks=[HiddenNorm(0.0)])
    off, zero = (without_times(read_rows(tmp_path / name)) for name in ("off", "zero"))
    assert [row["train/loss"] for row in off] == [row["train/loss"] for row in zero]
