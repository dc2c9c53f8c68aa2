"""One trial in a process of its own: reads its settings, trains, measures, writes the outcome.

Needs torch and numpy alone, because the processes of other projects run it in their own Pythons.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scripts.benchmarks.time_to_loss.window_loss import mean_loss

Settings = Mapping[str, Any]


class Clock:
    """Wall time and processor time of training, without start-up and validation."""

    def __init__(self) -> None:
        """Start with no time."""
        self.began: tuple[float, float] | None = None
        self.ended: tuple[float, float] | None = None
        self.began_at = 0.0

    def start(self) -> None:
        """Begin to measure; only the first call counts."""
        if self.began is None:
            self.began_at = time.time()
            self.began = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """End to measure; the last call counts."""
        self.ended = time.perf_counter(), time.process_time()

    def seconds(self) -> tuple[float, float]:
        """Wall time and processor time between the first start and the last stop.

        Raises:
            RuntimeError: it was not started and stopped.
        """
        if self.began is None or self.ended is None:
            raise RuntimeError("the training was not timed")
        return self.ended[0] - self.began[0], self.ended[1] - self.began[1]


@dataclass(frozen=True)
class Trained:
    """A trained model."""

    logits_of: Callable[[Tensor], Tensor] | None
    """Maps token ids (batch, seq) to logits (batch, seq, vocab); None if training diverged."""
    parameters: int = 0
    """Stored parameters."""
    steps: int = 0
    """Optimizer steps."""
    tokens_per_step: int = 0
    learning_rate: float = 0.0


def run_trial(train: Callable[[Settings, Clock], Trained], clock: Clock | None = None) -> None:
    """Run the trial that the JSON file named on the command line describes.

    Args:
        train: trains a model as the settings say, and starts and stops the clock.
        clock: the clock; default: a new one.
    """
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(settings["threads"])
    clock = clock or Clock()
    trained = train(settings, clock)
    Path(sys.argv[2]).write_text(
        json.dumps(outcome(trained, clock, settings), allow_nan=False), encoding="utf-8"
    )


def outcome(trained: Trained, clock: Clock, settings: Settings) -> dict[str, Any]:
    """What is recorded of a trial; `loss`, in nats per token, is None if training diverged."""
    if trained.logits_of is None:
        return {"loss": None}
    loss = mean_loss(trained.logits_of, windows_of(settings, "validation"))
    if not math.isfinite(loss):
        return {"loss": None}
    wall, processor = clock.seconds()
    return {
        "loss": loss,
        "tokens": trained.steps * trained.tokens_per_step,
        "tokens_per_step": trained.tokens_per_step,
        "learning_rate": trained.learning_rate,
        "parameters": trained.parameters,
        "wall_seconds": wall,
        "processor_seconds": processor,
        "start_seconds": clock.began_at - settings["started_at"],
    }


def windows_of(settings: Settings, split: str) -> NDArray[np.uint16]:
    """Token ids (windows, sequence_length + 1) of the split `train` or `validation`."""
    return np.load(Path(settings["corpus"]) / f"{split}.npy", mmap_mode="r")


def num_steps(settings: Settings) -> int:
    """Whole optimizer steps of the trial's budget."""
    return settings["max_tokens"] // settings["tokens_per_step"]


def windows_per_step(settings: Settings) -> int:
    """Windows per optimizer step."""
    return settings["tokens_per_step"] // settings["sequence_length"]


def warmup_steps(settings: Settings) -> int:
    """Steps in which the learning rate of the other projects rises."""
    return max(1, round(settings["warmup_fraction"] * num_steps(settings)))
