"""Batches of a prepared corpus for calibration and validation, without Lightning."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mobilellm.data.windows import WindowBatchSampler, Windows
from mobilellm.labels import IGNORE_INDEX, LABEL_FIELDS

Batch = dict[str, Tensor]

# Windows per calibration batch: fixed, because micro_batch_size depends on the machine.
CALIBRATION_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class CorpusBatches:
    """The windows of both splits of a prepared corpus, in batches.

    Raises:
        ValueError: a split or `validation_tokens` is smaller than one window.
    """

    prepared: Any
    """Provides `windows("train"|"validation", …)`, as `mobilellm.data.PreparedData` does."""
    sequence_length: int
    """Tokens per window."""
    micro_batch_size: int
    """Windows per validation batch."""
    seed: int
    """Seed of the order of the training windows."""
    validation_tokens: float | None = None
    """Tokens to validate on, in windows spread evenly over the split; None: the whole split."""
    document_mask: bool = False
    """Whether attention is limited to the tokens of one document."""
    train_windows: Windows = field(init=False)
    validation_windows: Windows = field(init=False)

    def __post_init__(self) -> None:
        """Open both splits."""
        for split in ("train", "validation"):
            windows = self.prepared.windows(
                split, self.sequence_length, document_mask=self.document_mask
            )
            object.__setattr__(self, f"{split}_windows", windows)
        if self.validation_tokens is not None and self.validation_tokens < self.sequence_length:
            raise ValueError(
                f"validation_tokens={self.validation_tokens:.0f} must be at least one window, "
                f"sequence_length={self.sequence_length}"
            )

    @property
    def num_validation_windows(self) -> int:
        """Number of windows per validation."""
        available = len(self.validation_windows)
        if self.validation_tokens is None:
            return available
        return min(available, int(self.validation_tokens // self.sequence_length))

    def validation(self, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Yield the validation batches, or one rank's share: the same number on every rank."""
        total, size = self.num_validation_windows, self.micro_batch_size
        spread = [index * len(self.validation_windows) // total for index in range(total)]
        for first in range(rank * size, total + rank * size, world_size * size):
            windows = spread[first : first + size]
            if windows:
                yield stack_windows(self.validation_windows, windows)
            else:
                # If the model is sharded, every rank must take part in every forward pass.
                idle = stack_windows(self.validation_windows, [0])
                yield idle | {
                    name: torch.full_like(values, IGNORE_INDEX)
                    for name, values in idle.items()
                    if name in LABEL_FIELDS
                }

    def calibration(self, tokens: int) -> list[Batch]:
        """Batches of the first windows in the training order.

        Args:
            tokens: minimum number of tokens, rounded up to whole windows.

        Raises:
            ValueError: the training split has fewer tokens.
        """
        windows, available = -(-tokens // self.sequence_length), len(self.train_windows)
        if windows > available:
            raise ValueError(
                f"calibration_tokens={tokens} is more than the training split has, "
                f"{available * self.sequence_length:,} in whole windows; use fewer, or more text"
            )
        sampler = WindowBatchSampler(
            available,
            seed=self.seed,
            samples_per_step=CALIBRATION_BATCH,
            micro_batch_size=CALIBRATION_BATCH,
            stop=windows,
        )
        return [stack_windows(self.train_windows, indices) for indices in sampler]


def stack_windows(windows: Windows, indices: list[int]) -> Batch:
    """Stack windows to a batch: fields (len(indices), seq), and `window`, the indices."""
    items = [windows[index] for index in indices]
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    return batch | {"window": torch.tensor(indices)}
