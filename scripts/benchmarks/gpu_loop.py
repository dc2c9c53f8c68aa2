"""Measures what each callback of a run costs, in Lightning's loop."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.models import ModelConfig
from mobilellm.training.trainer import TrainerConfig
from scripts.benchmarks.gpu_training import workload_of
from scripts.benchmarks.loop import WARM_UP_STEPS, RandomTokens, run_lightning

if TYPE_CHECKING:
    from scripts.benchmarks.gpu import Bench


def measure_callbacks(bench: "Bench", config: ModelConfig) -> list[dict[str, Any]]:
    """Seconds per step without callbacks, with those of every run, and without them again.

    The second measurement without callbacks shows how much two measurements of the same differ.
    """
    alone, together, again = _measure(bench, config, [[], list(_makers(None).values()), []])
    return [
        {"callback": name, "seconds_per_step": seconds, "overhead": seconds / alone - 1}
        for name, seconds in (("none", alone), ("all", together), ("none again", again))
    ]


def measure_each_callback(bench: "Bench", config: ModelConfig) -> list[dict[str, Any]]:
    """Seconds per step without callbacks, and with each of those of every run alone."""
    makers = _makers(bench.steps)
    alone, *others = _measure(bench, config, [[], *([make] for make in makers.values())])
    rows = zip(("none", *makers), (alone, *others), strict=True)
    return [
        {"callback": name, "seconds_per_step": seconds, "overhead": seconds / alone - 1}
        for name, seconds in rows
    ]


def _measure(
    bench: "Bench", config: ModelConfig, choices: list[list[Callable[[Path], Any]]]
) -> list[float]:
    """Seconds per step with each choice of callbacks."""
    steps = 2 * bench.steps + WARM_UP_STEPS
    workload = workload_of(bench, "callbacks", config)
    prepared = RandomTokens(config.vocab_size, workload.tokens * (steps + 1) + 1)
    trainer = TrainerConfig(accelerator=bench.device, compile=bench.compiles)
    seconds = []
    for makers in choices:
        with tempfile.TemporaryDirectory() as folder:
            callbacks = [make(Path(folder)) for make in makers]
            seconds.append(run_lightning(workload, prepared, steps, callbacks, trainer))
    return seconds


def _makers(every: int | None) -> dict[str, Callable[[Path], Any]]:
    """The callbacks by name; checkpoints every so many steps, or as by default."""
    from mobilellm.callbacks.checkpoint import CheckpointCallback
    from mobilellm.callbacks.graceful_stop import GracefulStopCallback
    from mobilellm.callbacks.loss_guard import LossGuardCallback
    from mobilellm.callbacks.progress import ProgressCallback
    from mobilellm.callbacks.throughput import ThroughputCallback

    return {
        "graceful_stop": lambda _: GracefulStopCallback(),
        "loss_guard": lambda _: LossGuardCallback(action="skip"),
        "progress": lambda _: ProgressCallback(),
        "throughput": lambda _: ThroughputCallback(),
        f"checkpoint every {every} steps" if every else "checkpoint": lambda folder: (
            CheckpointCallback(folder, every_steps=every)
        ),
    }
