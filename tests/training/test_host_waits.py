"""No step that is not logged makes the host wait for the device, whatever is trained."""

from types import SimpleNamespace

import pytest
import torch
from distilled_run import CASES, PairTokens, PromptedTokens, make_teacher
from host_waits import META, host_waits, watched
from lightning.pytorch import Callback
from small_run import LENGTH, VOCAB, Tokens, make_data, make_model

from mobilellm.callbacks.checkpoint import CheckpointCallback
from mobilellm.callbacks.distillation import DistillationCallback
from mobilellm.callbacks.graceful_stop import GracefulStopCallback
from mobilellm.callbacks.loss_guard import LossGuardCallback
from mobilellm.callbacks.progress import ProgressCallback
from mobilellm.callbacks.step_by_step import StepByStepCallback
from mobilellm.callbacks.supernet import SupernetCallback
from mobilellm.callbacks.throughput import ThroughputCallback
from mobilellm.distillation import ForwardKL
from mobilellm.distillation.losses.targets import TopK
from mobilellm.distillation.teachers.teacher import StoredTeacher
from mobilellm.distillation.terms import distillation_terms


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (lambda x: x.new_full((3,), 2.0)[1].add_(1), None),
        (lambda x: torch.zeros(3).to(META, non_blocking=True), None),
        (lambda x: torch.zeros(3).to(META), "aten::_to_copy between cpu and meta"),
        (lambda x: x[0].copy_(torch.zeros(())), "aten::copy_ between cpu and meta"),
        (lambda x: torch.tensor([1.0], device=META), "tensor from numbers"),
        (lambda x: x[[0, 1]], "__getitem__ by a list"),
    ],
)
def test_a_copy_that_waits_is_seen(action, expected):
    found = []
    with watched(found):
        action(torch.zeros(4, device=META))
    assert found == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    "read", [torch.Tensor.item, torch.Tensor.nonzero, lambda x: x[x > 0], torch.Tensor.cpu]
)
def test_nothing_can_be_read(read):
    with pytest.raises((RuntimeError, NotImplementedError)):
        read(torch.zeros(1, device=META))


def test_the_callbacks_of_every_run(tmp_path, monkeypatch):
    monkeypatch.setattr("mobilellm.callbacks.throughput.matmul_rate", lambda *_: 1.0)
    callbacks = [
        LossGuardCallback(action="skip", spike_nats=1.0, spike_factor=2.0, window=2),
        ThroughputCallback(), ProgressCallback(), GracefulStopCallback(),
        CheckpointCallback(tmp_path / "checkpoints"),
    ]  # fmt: skip
    assert host_waits(*callbacks, data=make_data(4, document_mask=True), steps=3) == []


def test_all_losses_that_compare_with_a_model(tmp_path):
    make_teacher(tmp_path)
    callback = DistillationCallback(teacher=tmp_path, **CASES["all"])
    model = make_model(block_repeats=2)
    assert host_waits(callback, model=model, data=make_data(tokens=PromptedTokens())) == []


def test_pairs_of_answers(tmp_path):
    make_teacher(tmp_path)
    callback = DistillationCallback(teacher=tmp_path, cross_entropy_weight=0.0, **CASES["pairs"])
    assert host_waits(callback, data=make_data(4, tokens=PairTokens())) == []


class StoredTerms(Callback):
    """The losses of a logit store, which reads the numbers of the windows on the host."""

    def read(self, windows):
        shape = (windows.numel(), LENGTH, 3)
        assert windows.is_cpu
        return TopK(torch.zeros(shape, dtype=torch.int64), torch.full(shape, -2.0))

    def loss_terms(self, module, batch, output):
        inputs = SimpleNamespace(is_sampled=False)
        store = SimpleNamespace(read=self.read, vocab_size=VOCAB, temperature=1.0, inputs=inputs)
        structure = StoredTeacher(store).structure
        return distillation_terms(
            {"stored": ForwardKL()}, StoredTeacher(store).run(batch), output, batch,
            unembed=module.model.unembed, student=structure, teacher=structure, progress=0.5,
            projections={},
        )  # fmt: skip


class TwoTasks(Tokens):
    """Every other token belongs to the second task, and the first of each window to none."""

    tasks = ("label", "rationale")

    def windows(self, split, sequence_length, **options):
        tasks = torch.arange(sequence_length) % 2 + 1
        tasks[0] = 0
        windows = super().windows(split, sequence_length, **options)
        return [{**window, "tasks": tasks} for window in (windows[i] for i in range(len(windows)))]


def test_stored_and_rounded_probabilities_tasks_and_sub_networks(tmp_path):
    make_teacher(tmp_path)
    callbacks = [
        StoredTerms(), StepByStepCallback(), SupernetCallback(**CASES["supernet"]),
        DistillationCallback(teacher=tmp_path, **CASES["top_k"]),
    ]  # fmt: skip
    assert host_waits(*callbacks, data=make_data(tokens=TwoTasks())) == []
