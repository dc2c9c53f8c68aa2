"""Training windows over a token stream, and the order in which they are consumed.

1. The stream (documents with EOS between them) is cut into windows of `sequence_length` + 1 tokens
   that overlap by one: the last label of a window is the first input of the next.
2. Training consumes an endless stream of samples; sample g is window
   `permutation(seed, epoch)[position]` with epoch, position = divmod(g, number of windows).
3. Optimizer step k takes the samples [k G, (k + 1) G) with G = samples_per_step, on any number of
   ranks. The position of a run is therefore a single number: the samples consumed.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mobilellm.data.permutation import permute
from mobilellm.data.shards import TokenSequence
from mobilellm.labels import IGNORE_INDEX


class Windows(Protocol):
    """A sequence of windows: dicts of tensors (seq,) with at least `input_ids` and `labels`."""

    def __len__(self) -> int:
        """Number of windows."""
        ...

    def __getitem__(self, index: int, /) -> dict[str, Tensor]:
        """One window."""
        ...


class WindowDataset(Dataset[dict[str, Tensor]]):
    """Windows of `sequence_length` inputs with the next tokens as labels.

    An item is {"input_ids": (seq,), "labels": (seq,)}, int64. With `document_mask` it also has
    "document_ids" (seq,), which number the documents from the start of the window (EOS belongs to
    the document that it ends); the label that is the first token of another document is then -100.

    Args:
        tokens: the stream of tokens.
        sequence_length: inputs per window, in tokens.
        eos_token_id: the token that ends a document; required for `document_mask`.
        bos_token_id: the token that begins a document, if no token ends it.
        document_mask: whether attention is limited to the tokens of one document.
        described: name of the stream in messages.

    Raises:
        ValueError: the stream is too short for one window, or `document_mask` is true without
            `eos_token_id`.
    """

    def __init__(
        self,
        tokens: TokenSequence,
        sequence_length: int,
        *,
        eos_token_id: int | None = None,
        bos_token_id: int | None = None,
        document_mask: bool = False,
        described: str = "the data",
    ) -> None:
        """Check that there is at least one window; nothing is read yet."""
        if sequence_length < 1:
            raise ValueError(f"sequence_length={sequence_length} must be at least 1")
        if len(tokens) <= sequence_length:
            raise ValueError(
                f"sequence_length={sequence_length} needs {sequence_length + 1} tokens for one "
                f"window, {described} has {len(tokens)}; use a sequence_length of at most "
                f"{max(len(tokens) - 1, 0)}, or more text"
            )
        if document_mask and eos_token_id is None:
            raise ValueError(
                "document_mask=true needs eos_token_id; give it, or use document_mask=false"
            )
        self.tokens = tokens
        self.sequence_length = sequence_length
        self.eos_token_id = eos_token_id
        self.bos_token_id = bos_token_id
        self.document_mask = document_mask

    def __len__(self) -> int:
        """Number of windows."""
        return (len(self.tokens) - 1) // self.sequence_length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The window `index`, counted from the start of the stream."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} does not exist; there are {len(self)}")
        start = index * self.sequence_length
        window = self.tokens[start : start + self.sequence_length + 1].astype(np.int64)
        input_ids, labels = window[:-1], window[1:]
        if not self.document_mask:
            return {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}
        begun_by = self.bos_token_id
        ends = input_ids == self.eos_token_id if begun_by is None else labels == begun_by
        return {
            "input_ids": torch.from_numpy(input_ids),
            "labels": torch.from_numpy(np.where(ends, IGNORE_INDEX, labels)),
            "document_ids": torch.from_numpy(np.cumsum(ends) - ends),
        }


class WindowBatchSampler(Sampler[list[int]]):
    """The windows of each micro-batch of one rank, as lists of indices.

    Micro-batch m of a step on rank r takes the slice of the step's samples that begins at
    (m * world_size + r) * micro_batch_size: the set of samples of a step is the same for any number
    of ranks. A sampler with `start` = samples consumed so far continues the same order.

    Args:
        num_windows: windows per epoch.
        seed: determines the order.
        samples_per_step: windows per optimizer step, over all ranks and micro-batches.
        micro_batch_size: windows per batch; times `world_size` it must divide `samples_per_step`.
        start: samples consumed before, over all ranks.
        stop: samples consumed when iteration ends, over all ranks; None: it never ends. If the last
            step is incomplete, its batches are smaller, and some ranks may have one batch less.
        rank: rank of this process, below `world_size`.
        world_size: number of processes that share each step.
        shuffle: False keeps the order of the stream in every epoch.

    Raises:
        ValueError: a size is out of range, or `samples_per_step` is not divisible as required.
    """

    def __init__(
        self,
        num_windows: int,
        *,
        seed: int,
        samples_per_step: int,
        micro_batch_size: int,
        start: int = 0,
        stop: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ) -> None:
        """Check the sizes."""
        for name, value in (
            ("num_windows", num_windows),
            ("samples_per_step", samples_per_step),
            ("micro_batch_size", micro_batch_size),
            ("world_size", world_size),
        ):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} must be at least 0 and below world_size={world_size}")
        if start < 0 or (stop is not None and stop < start):
            raise ValueError(f"start={start} and stop={stop} must satisfy 0 <= start <= stop")
        if samples_per_step % (world_size * micro_batch_size):
            raise ValueError(
                f"samples_per_step={samples_per_step} must be divisible by world_size="
                f"{world_size} times micro_batch_size={micro_batch_size}; use a multiple of "
                f"{world_size * micro_batch_size}, or another micro_batch_size"
            )
        self.num_windows = num_windows
        self.seed = seed
        self.samples_per_step = samples_per_step
        self.micro_batch_size = micro_batch_size
        self.start = start
        self.stop = stop
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of this rank, beginning at `start`."""
        # A step is a multiple of this, so that no separate loop over steps is needed.
        stride = self.world_size * self.micro_batch_size
        first = self.start + self.rank * self.micro_batch_size
        while self.stop is None or first < self.stop:
            last = first + self.micro_batch_size
            yield self.windows(first, last if self.stop is None else min(last, self.stop))
            first += stride

    def __len__(self) -> int:
        """Number of batches of this rank; TypeError if iteration never ends."""
        if self.stop is None:
            raise TypeError("a sampler without stop has no length: it never ends")
        first = self.start + self.rank * self.micro_batch_size
        return max(0, -(-(self.stop - first) // (self.world_size * self.micro_batch_size)))

    def windows(self, first: int, last: int) -> list[int]:
        """The windows of the global samples [first, last), in order."""
        samples = np.arange(first, last, dtype=np.int64)
        epochs, positions = np.divmod(samples, self.num_windows)
        if self.shuffle:
            for epoch in np.unique(epochs).tolist():
                inside = epochs == epoch
                positions[inside] = permute(
                    positions[inside], self.num_windows, seed=self.seed, epoch=epoch
                )
        return positions.tolist()
