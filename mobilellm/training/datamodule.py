"""Training and validation batches from prepared tokens, exactly resumable."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from mobilellm.data.windows import WindowBatchSampler, Windows
from mobilellm.losses.cross_entropy import IGNORE_INDEX

Batch = dict[str, Tensor]

# Windows per calibration batch: fixed, because micro_batch_size depends on the machine.
CALIBRATION_BATCH = 8


class TokenDataModule(LightningDataModule):
    """Optimizer steps as Lightning batches: one item is the list of a step's micro-batches.

    The position of a run is one number, the samples consumed over all ranks. It is saved in the
    checkpoint, so that a run continues with the sample after the last one that it was trained on,
    even on a different number of ranks. Windows are slices of memory-mapped shards: reading them
    takes much less time than a step, so there are no worker processes.

    Args:
        prepared: has `windows("train"|"validation", …)` and `token_bytes`, such as
            `mobilellm.data.PreparedData`.
        sequence_length: tokens per window.
        micro_batch_size: windows per device and forward pass.
        samples_per_step: windows per optimizer step over all ranks and micro-batches.
        seed: determines the order of the windows.
        validation_tokens: number of tokens to validate on, in windows spread evenly over the split;
            default: the whole split.
        document_mask: limit attention to the tokens of one document.

    Raises:
        ValueError: a split is too short for one window, or the sizes do not divide each other.
    """

    def __init__(
        self,
        prepared: Any,
        *,
        sequence_length: int,
        micro_batch_size: int,
        samples_per_step: int,
        seed: int,
        validation_tokens: float | None = None,
        document_mask: bool = False,
    ) -> None:
        """Open both splits."""
        super().__init__()
        self.prepared = prepared
        self.sequence_length = sequence_length
        self.micro_batch_size = micro_batch_size
        self.document_mask = document_mask
        self.samples_per_step = samples_per_step
        self.seed = seed
        self.train_windows: Windows = prepared.windows(
            "train", sequence_length, document_mask=document_mask
        )
        self.validation_windows: Windows = prepared.windows(
            "validation", sequence_length, document_mask=document_mask
        )
        if validation_tokens is not None and validation_tokens < sequence_length:
            raise ValueError(
                f"validation_tokens={validation_tokens:.0f} must be at least one window, "
                f"sequence_length={sequence_length}"
            )
        self.validation_tokens = validation_tokens
        self._consumed_before = 0
        self._first_step = 0

    @property
    def token_bytes(self) -> np.ndarray | None:
        """Bytes of text that each token id stands for; None if no tokenizer is known."""
        return self.prepared.token_bytes

    @property
    def consumed_samples(self) -> int:
        """Samples trained on so far, over all ranks."""
        steps = 0 if self.trainer is None else self.trainer.global_step - self._first_step
        return self._consumed_before + steps * self.samples_per_step

    @property
    def num_validation_windows(self) -> int:
        """Number of windows per validation."""
        everything = len(self.validation_windows)
        if self.validation_tokens is None:
            return everything
        return min(everything, int(self.validation_tokens // self.sequence_length))

    def state_dict(self) -> dict[str, int]:
        """The number of samples consumed."""
        return {"consumed_samples": self.consumed_samples}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore the number of samples consumed."""
        self._consumed_before = state_dict["consumed_samples"]

    def teardown(self, stage: str) -> None:
        """Keep the position, so that another fit continues with the next sample."""
        if self.trainer is not None:
            self._consumed_before = self.consumed_samples
            self._first_step = self.trainer.global_step

    def train_dataloader(self) -> "StepLoader":
        """The steps after the samples consumed so far, without an end."""
        rank, world_size = self._place()
        if self.trainer is not None:
            self._first_step = self.trainer.global_step
        sampler = WindowBatchSampler(
            len(self.train_windows),
            seed=self.seed,
            samples_per_step=self.samples_per_step,
            micro_batch_size=self.micro_batch_size,
            start=self._consumed_before,
            rank=rank,
            world_size=world_size,
        )
        accumulation = self.samples_per_step // (self.micro_batch_size * world_size)
        pin = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return StepLoader(self.train_windows, sampler, accumulation, pin_memory=pin)

    def validation_batches(self) -> Iterator[Batch]:
        """This rank's share of the validation windows; all ranks get the same number of batches."""
        return self._validation_batches(*self._place())

    def all_validation_batches(self) -> Iterator[Batch]:
        """All validation windows, not only this rank's share."""
        return self._validation_batches(0, 1)

    def _validation_batches(self, rank: int, world_size: int) -> Iterator[Batch]:
        total, size = self.num_validation_windows, self.micro_batch_size
        spread = [index * len(self.validation_windows) // total for index in range(total)]
        for first in range(rank * size, total + rank * size, world_size * size):
            windows = spread[first : first + size]
            if windows:
                yield gather(self.validation_windows, windows)
            else:
                # If the model is sharded, every rank must take part in every forward pass.
                idle = gather(self.validation_windows, [0])
                yield idle | {"labels": torch.full_like(idle["labels"], IGNORE_INDEX)}

    def calibration_batches(self, tokens: int) -> list[Batch]:
        """The first windows of the training order, whatever the position of the run.

        Args:
            tokens: least number of tokens; rounded up to whole windows.

        Raises:
            ValueError: the training split has fewer tokens.
        """
        windows, there = -(-tokens // self.sequence_length), len(self.train_windows)
        if windows > there:
            raise ValueError(
                f"calibration_tokens={tokens} is more than the training split has, "
                f"{there * self.sequence_length:,} in whole windows; use fewer, or more text"
            )
        sampler = WindowBatchSampler(
            there,
            seed=self.seed,
            samples_per_step=CALIBRATION_BATCH,
            micro_batch_size=CALIBRATION_BATCH,
            stop=windows,
        )
        return [gather(self.train_windows, indices) for indices in sampler]

    def _place(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size


class StepLoader:
    """Iterates over optimizer steps, each a list of `accumulation` micro-batches."""

    def __init__(
        self,
        windows: Windows,
        sampler: WindowBatchSampler,
        accumulation: int,
        *,
        pin_memory: bool = False,
    ) -> None:
        """Keep the arguments; nothing is read yet."""
        self.windows = windows
        self.sampler = sampler
        self.accumulation = accumulation
        self.pin_memory = pin_memory

    def __iter__(self) -> Iterator[list[Batch]]:
        """The steps, beginning at the sampler's `start`."""
        indices = iter(self.sampler)
        while True:
            step = [gather(self.windows, next(indices)) for _ in range(self.accumulation)]
            if self.pin_memory:
                step = [{k: v.pin_memory() for k, v in batch.items()} for batch in step]
            yield step


def gather(windows: Windows, indices: list[int]) -> Batch:
    """Stack windows: each field (len(indices), seq), and the windows' numbers (len(indices),)."""
    items = [windows[index] for index in indices]
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    return batch | {"window": torch.tensor(indices)}
