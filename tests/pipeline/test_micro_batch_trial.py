"""micro_batch_size=measure: which size is taken, and what ends the trials."""

import logging

import pytest
import torch

from mobilellm.hydra_app.configuration import compose
from mobilellm.pipeline import micro_batch, micro_batch_trial
from mobilellm.pipeline.micro_batch import micro_batch_size
from mobilellm.pipeline.micro_batch_trial import choose
from mobilellm.pipeline.plan import plan_run
from mobilellm.training import device_rate


def planned(overrides, *more):
    return plan_run(compose("train", [*overrides, "micro_batch_size=measure", *more]))


def test_of_sizes_that_are_as_fast_the_smallest_is_taken():
    assert choose({1: 10.0, 2: 19.0, 4: 25.0, 8: 25.4}) == 4
    assert choose({1: 10.0, 2: 9.0}) == 1
    assert choose({1: 10.0, 2: 9.0, 4: 20.0}) == 4


def test_sizes_are_tried_until_one_does_not_fit(tiny_overrides, monkeypatch, caplog):
    """On the device itself; the four windows of a step allow 1, 2 and 4."""
    real, tried = micro_batch_trial._Trial._pass, []

    def run_pass(trial, batch):
        tried.append(len(batch["input_ids"]))
        if tried[-1] > 2:
            raise torch.OutOfMemoryError("too large")
        real(trial, batch)

    monkeypatch.setattr(micro_batch_trial, "SECONDS_PER_SIZE", 0.0)
    monkeypatch.setattr(micro_batch_trial._Trial, "_pass", run_pass)
    monkeypatch.setattr(micro_batch, "min_over_ranks", lambda value: min(value, 1e12))
    run = planned(tiny_overrides, "data.document_mask=true")
    with caplog.at_level(logging.INFO, "mobilellm"):
        size = micro_batch_size(run)
    assert tried == [1, 1, 2, 2, 4]
    assert size in (1, 2)
    assert f"tokens/s; using {size}" in caplog.text
    assert micro_batch_size(run, measures=False) == 4


def test_all_ranks_take_the_size_that_is_right_for_the_slowest(tiny_overrides, monkeypatch):
    monkeypatch.setattr(micro_batch, "fastest_micro_batch", lambda run, most: most)
    monkeypatch.setattr(micro_batch, "min_over_ranks", lambda value: value if value > 99 else 1)
    assert micro_batch_size(planned(tiny_overrides)) == 1


def test_what_is_not_measured_is_refused(tiny_overrides, saved_run):
    run = planned(
        tiny_overrides, "distillation=forward_kl", f"distillation.teacher={saved_run}",
        f"data.tokenizer={saved_run}/model/tokenizer.model", "model.vocab_size=64",
    )  # fmt: skip
    with pytest.raises(ValueError, match="without a teacher, which this run has; use micro_batch"):
        micro_batch_size(run)


def test_the_peak_of_a_run_does_not_include_the_yardstick(monkeypatch):
    called = []
    monkeypatch.setattr(device_rate, "measure_matmul_rate", lambda *_: called.append("rate") or 1.0)
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: called.append(name))
    assert device_rate.matmul_rate(torch.device("cuda:7"), torch.bfloat16) == 1.0
    assert called == ["rate", "empty_cache", "reset_peak_memory_stats"]
