"""Tries micro-batch sizes on the device, for `micro_batch_size=measure`."""

import gc
import logging
import time
from collections.abc import Callable
from functools import partial

import torch

from mobilellm.losses.cross_entropy import chunked_cross_entropy
from mobilellm.models.attention_mask import attention_mask_of
from mobilellm.pipeline.parts import make_model
from mobilellm.pipeline.run import Run
from mobilellm.units import si_text

logger = logging.getLogger(__name__)

# A larger size is not worth its memory if it is not faster by more than this.
LEAST_GAIN = 1.02
SECONDS_PER_SIZE = 0.5


def fastest_micro_batch(run: Run, most: int) -> int:
    """The size with the most tokens per second; of sizes that are about as fast, the smallest.

    Forward and backward passes on random tokens are measured, while the gradients and the state of
    the optimizer are in memory. Blocks are not compiled, which needs more memory than compiled
    ones, not less. Sizes are tried in ascending order until one does not fit.

    Args:
        run: a planned run.
        most: largest size; it divides the windows of a step and device, as all that are tried.

    Raises:
        torch.OutOfMemoryError: not even one window fits.
    """
    work = _Trial(run)
    rates: dict[int, float] = {}
    for size in (n for n in range(1, most + 1) if most % n == 0):
        try:
            rates[size] = work.tokens_per_second(size)
        except torch.OutOfMemoryError:
            if not rates:
                raise
            break
    del work
    gc.collect()
    if run.trainer.device_type == "cuda":
        torch.cuda.empty_cache()
    size = choose(rates)
    logger.info("micro_batch_size=measure: %s; using %d", describe(rates), size)
    return size


def choose(rates: dict[int, float]) -> int:
    """The smallest size whose rate is at most `LEAST_GAIN` times below the highest.

    Args:
        rates: tokens per second by size.
    """
    enough = max(rates.values()) / LEAST_GAIN
    return min(size for size, rate in rates.items() if rate >= enough)


def describe(rates: dict[int, float]) -> str:
    """The measured rates as words, such as `1: 20k, 2: 31k tokens/s`."""
    return ", ".join(f"{size}: {si_text(rate)}" for size, rate in rates.items()) + " tokens/s"


class _Trial:
    """A model of the run with its optimizer, as large as they are in training."""

    def __init__(self, run: Run) -> None:
        self.run, self.device = run, torch.device(run.trainer.device_type)
        dtype = torch.bfloat16 if run.trainer.resolved_precision == "bf16-true" else None
        self.model = make_model(run).to(self.device, dtype)
        self.model.set_activation_checkpointing(run.trainer.activation_checkpointing)
        self.optimizer = run.parts.optimizer(self.model)
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()

    def tokens_per_second(self, size: int) -> float:
        """Rate of forward and backward passes of so many windows, after one as warm-up."""
        batch = self._random_batch(size)
        seconds = _median_seconds(partial(self._pass, batch), self.device)
        return size * self.run.config["sequence_length"] / seconds

    def _random_batch(self, size: int) -> dict[str, torch.Tensor]:
        shape = (size, self.run.config["sequence_length"] + 1)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(self.run.model.vocab_size, shape, generator=generator)
        batch = {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}
        if self.run.data.document_mask:
            batch["document_ids"] = torch.zeros_like(batch["input_ids"])
        return {name: value.to(self.device) for name, value in batch.items()}

    def _pass(self, batch: dict[str, torch.Tensor]) -> None:
        is_mixed = self.run.trainer.resolved_precision == "bf16-mixed"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_mixed):
            mask = attention_mask_of(batch)
            hidden = self.model(batch["input_ids"], attention_mask=mask, logits=False).hidden
            loss = chunked_cross_entropy(hidden, self.model.unembed, batch["labels"])
        (loss / batch["labels"].numel()).backward()


def _median_seconds(work: Callable[[], None], device: torch.device) -> float:
    work()
    taken: list[float] = []
    end = time.perf_counter() + SECONDS_PER_SIZE
    while not taken or time.perf_counter() < end:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[len(taken) // 2]
