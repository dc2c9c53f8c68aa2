"""The measured time of optimizer steps and validations of a run, without data and without files."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mobilellm.losses.cross_entropy import chunked_cross_entropy
from mobilellm.pipeline.micro_batch import micro_batch_size
from mobilellm.pipeline.parts import make_model
from mobilellm.pipeline.run import Run


@dataclass(frozen=True)
class StepTime:
    """Seconds per token on this device, with the current number of threads."""

    training: float
    """Forward and backward passes and the optimizer."""
    validation: float
    """A forward pass with the loss."""


def measure_step_time(run: Run, *, seconds: float = 1.0) -> StepTime:
    """Train the run's model on random tokens for a short time.

    Data loading, logging, checkpoints and the start of the process are not included, nor are a
    teacher and compression.

    Args:
        run: a planned run of one device.
        seconds: of training and of validation, each after one pass as warm-up.
    """
    model, device = make_model(run), run.trainer.device_type
    model = model.to(device)
    optimizer = run.parts.optimizer(model)
    size, length = micro_batch_size(run, measures=False), run.config["sequence_length"]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(run.model.vocab_size, (size, length + 1), generator=generator).to(device)
    accumulation = max(1, run.samples_per_step // size)
    is_mixed = run.trainer.resolved_precision == "bf16-mixed"

    def loss() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=is_mixed):
            hidden = model(ids[:, :-1], logits=False).hidden
            return chunked_cross_entropy(hidden, model.unembed, ids[:, 1:]) / (size * length)

    def train() -> None:
        optimizer.zero_grad()
        for _ in range(accumulation):
            (loss() / accumulation).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    @torch.no_grad()
    def validate() -> None:
        loss()

    tokens = size * length
    return StepTime(
        _seconds(train, device, seconds) / (accumulation * tokens),
        _seconds(validate, device, seconds / 4) / tokens,
    )


def _seconds(work: Callable[[], None], device: str, seconds: float) -> float:
    """Median seconds of repeated work, after one call that warms up."""
    work()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while not taken or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[len(taken) // 2]
