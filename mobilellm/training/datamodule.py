"""Training and validation batches of prepared data, with a position that can be resumed."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningDataModule

from mobilellm.data.batches import Batch, CorpusBatches, stack_windows
from mobilellm.data.windows import WindowBatchSampler, Windows


class TokenDataModule(LightningDataModule):
    """Optimizer steps as Lightning batches: one item is the list of a step's micro-batches.

    The position of a run is a single number: the samples consumed over all ranks. It is saved in
    the checkpoint, so that a run continues with the next sample, even on a different number of
    ranks. Windows are slices of memory-mapped shards: reading them takes much less time than a
    step, and so there are no worker processes.

    Args:
        prepared: provides `windows("train"|"validation", …)` and `token_bytes`, as
            `mobilellm.data.PreparedData` does.
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
        self.samples_per_step = samples_per_step
        self.seed = seed
        self.batches = CorpusBatches(
            prepared=prepared,
            sequence_length=sequence_length,
            micro_batch_size=micro_batch_size,
            seed=seed,
            validation_tokens=validation_tokens,
            document_mask=document_mask,
        )
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
    def train_windows(self) -> Windows:
        """The windows of the training split."""
        return self.batches.train_windows

    @property
    def num_validation_windows(self) -> int:
        """Number of windows per validation."""
        return self.batches.num_validation_windows

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
        """An endless iterator over the steps that follow the samples consumed so far."""
        rank, world_size = self._rank_and_world_size()
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

    def transfer_batch_to_device(
        self, batch: list[Batch], device: Any, dataloader_idx: int
    ) -> list[Batch]:
        """Move a step to the device, except the numbers of its windows, which the host reads."""
        return [
            {
                name: value if name == "window" else move_data_to_device(value, device)
                for name, value in micro_batch.items()
            }
            for micro_batch in batch
        ]

    def validation_batches(self) -> Iterator[Batch]:
        """This rank's share of the validation windows; all ranks get the same number of batches."""
        return self.batches.validation(*self._rank_and_world_size())

    def all_validation_batches(self) -> Iterator[Batch]:
        """All validation windows, not only this rank's share."""
        return self.batches.validation()

    def calibration_batches(self, tokens: int) -> list[Batch]:
        """Batches of the first windows in the training order, at any position of the run.

        Raises:
            ValueError: the training split has fewer tokens.
        """
        return self.batches.calibration(tokens)

    def _rank_and_world_size(self) -> tuple[int, int]:
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
            step = [stack_windows(self.windows, next(indices)) for _ in range(self.accumulation)]
            if self.pin_memory:
                step = [{k: v.pin_memory() for k, v in batch.items()} for batch in step]
            yield step
