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
    """Seconds per step without callbacks, and with each of those of every run alone."""
    steps = 2 * bench.steps + WARM_UP_STEPS
    workload = workload_of(bench, "callbacks", config)
    prepared = RandomTokens(config.vocab_size, workload.tokens * (steps + 1) + 1)
    trainer = TrainerConfig(accelerator=bench.device, compile=bench.compiles)

    def seconds(make: Callable[[Path], Any] | None) -> float:
        with tempfile.TemporaryDirectory() as folder:
            callbacks = [] if make is None else [make(Path(folder))]
            return run_lightning(workload, prepared, steps, callbacks, trainer)

    alone = seconds(None)
    rows: list[dict[str, Any]] = [{"callback": "none", "seconds_per_step": alone, "overhead": 0.0}]
    for name, make in _makers(bench.steps).items():
        taken = seconds(make)
        rows.append(
            {"callback": name, "seconds_per_step": taken, "overhead": taken / alone - 1}
        )  # fmt: skip
    # Once more, to show how much two measurements of the same differ.
    again = seconds(None)
    rows.append(
        {"callback": "none again", "seconds_per_step": again, "overhead": again / alone - 1}
    )
    return rows


def _makers(every: int) -> dict[str, Callable[[Path], Any]]:
    """The callbacks by name; checkpoints are written every so many steps."""
    from mobilellm.callbacks.checkpoint import CheckpointCallback
    from mobilellm.callbacks.graceful_stop import GracefulStopCallback
    from mobilellm.callbacks.loss_guard import LossGuardCallback
    from mobilellm.callbacks.progress import ProgressCallback
    from mobilellm.callbacks.throughput import ThroughputCallback

    return {
        "graceful_stop": lambda _: GracefulStopCallback(),
        "loss_guard": lambda _: LossGuardCallback(action="skip"),
        "loss_guard with spikes": lambda _: LossGuardCallback(action="skip", spike_nats=5.0),
        "progress": lambda _: ProgressCallback(),
        "throughput": lambda _: ThroughputCallback(),
        f"checkpoint every {every} steps": lambda folder: CheckpointCallback(
            folder, every_seconds=None, every_steps=every
        ),
    }
