"""Measures the overhead of Lightning's loop with logging, compared with a bare loop."""

import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mobilellm.data.windows import WindowDataset
from mobilellm.losses.cross_entropy import chunked_cross_entropy
from mobilellm.models import MobileLLM
from mobilellm.optim import adamw
from mobilellm.training.trainer import TrainerConfig, make_trainer
from scripts.benchmarks.shapes import Workload, demo_workloads

WARM_UP_STEPS = 3


class RandomTokens:
    """Replaces prepared data: a stream of random tokens, the same for both splits."""

    token_bytes = None

    def __init__(self, vocab_size: int, length: int) -> None:
        """Draw the tokens."""
        self.stream = np.random.default_rng(0).integers(0, vocab_size, length).astype(np.uint16)

    def windows(self, split: str, sequence_length: int, **_: bool) -> WindowDataset:
        """Return windows of all tokens."""
        return WindowDataset(self.stream, sequence_length)


class _StepTimes:
    """The times at which the steps ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def seconds_per_step(self) -> float:
        steps = self.ends[WARM_UP_STEPS - 1 :]
        return (steps[-1] - steps[0]) / (len(steps) - 1)


def measure_loop(*, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Measure the widest and the deepest shape of the demo, one row each."""
    shapes = demo_workloads()
    return [_compare(workload, rounds, steps) for workload in (shapes[0], shapes[-1])]


def _compare(workload: Workload, rounds: int, steps: int) -> dict[str, Any]:
    prepared = RandomTokens(workload.config.vocab_size, workload.tokens * (steps + 1) + 1)
    taken: dict[str, list[float]] = {"bare": [], "lightning": []}
    for number in range(rounds):
        order = ("bare", "lightning") if number % 2 == 0 else ("lightning", "bare")
        for name in order:
            run = _run_bare if name == "bare" else _run_with_callbacks
            taken[name].append(run(workload, prepared, steps))
    ratios = [one / other for one, other in zip(taken["lightning"], taken["bare"], strict=True)]
    return {
        "shape": workload.name,
        "bare_seconds_per_step": statistics.median(taken["bare"]),
        "lightning_seconds_per_step": statistics.median(taken["lightning"]),
        "overhead": statistics.median(ratios) - 1,
    }


def _run_bare(workload: Workload, prepared: RandomTokens, steps: int) -> float:
    model, times = MobileLLM(workload.config), _StepTimes()
    optimizer = adamw(model, learning_rate=1e-3)
    size = workload.tokens
    for step in range(steps):
        window = torch.from_numpy(prepared.stream[step * size : (step + 1) * size + 1].astype(int))
        inputs = window[:-1].view(workload.batch, -1)
        hidden = model(inputs, logits=False).hidden
        labels = window[1:].view(workload.batch, -1)
        (chunked_cross_entropy(hidden, model.unembed, labels) / size).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.ends.append(time.perf_counter())
    return times.seconds_per_step()


def _run_with_callbacks(workload: Workload, prepared: RandomTokens, steps: int) -> float:
    """Train as `mobilellm train` does, but without validation and checkpoints.

    Those are not overhead of the loop.
    """
    from mobilellm.callbacks.graceful_stop import GracefulStopCallback
    from mobilellm.callbacks.throughput import ThroughputCallback

    callbacks = [ThroughputCallback(), GracefulStopCallback()]
    return run_lightning(workload, prepared, steps, callbacks, TrainerConfig(accelerator="cpu"))


def run_lightning(
    workload: Workload,
    prepared: RandomTokens,
    steps: int,
    callbacks: Sequence[Any],
    config: TrainerConfig,
) -> float:
    """Train without validation, and return the seconds per step after `WARM_UP_STEPS`."""
    from lightning.pytorch import Callback

    from mobilellm.optim.schedules import cosine
    from mobilellm.training.csv_logger import CSVLogger
    from mobilellm.training.datamodule import TokenDataModule
    from mobilellm.training.intervals import Intervals
    from mobilellm.training.module import LanguageModelModule
    from mobilellm.training.training_budget import TrainingBudget

    times = _StepTimes()

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step in (WARM_UP_STEPS, steps) and config.device_type == "cuda":
                torch.cuda.synchronize()
            times.ends.append(time.perf_counter())

    module = LanguageModelModule(
        MobileLLM(workload.config),
        optimizer=partial(adamw, learning_rate=1e-3),
        schedule=cosine(warmup_steps=2),
        budget=TrainingBudget(max_steps=steps, tokens_per_step=workload.tokens),
        intervals=Intervals(validate_at_start=False),
        execution=config.execution,
    )
    module.is_validated = lambda step: False
    data = TokenDataModule(
        prepared,
        sequence_length=workload.sequence_length,
        micro_batch_size=workload.batch,
        samples_per_step=workload.batch,
        seed=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            config,
            max_steps=steps,
            callbacks=[*callbacks, Watch()],
            loggers=[CSVLogger(Path(folder))],
        )
        trainer.fit(module, datamodule=data)
    return times.seconds_per_step()
