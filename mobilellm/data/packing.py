"""Packs whole sequences into windows of equal length, with the task of each label."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mobilellm.data.shards import TokenSequence
from mobilellm.labels import IGNORE_INDEX

# Number of open windows that are searched for each sequence; more would hardly reduce padding.
_OPEN_WINDOWS = 256


def pack(lengths: Sequence[int] | NDArray[Any], capacity: int) -> NDArray[np.int64]:
    """Assign each sequence to the first open window that has room for it (first fit).

    Args:
        lengths: lengths of the sequences, at most `capacity`, in the order of packing.
        capacity: length of a window.

    Returns:
        The index of the window of each sequence, (sequences,), counted from 0 without gaps.
    """
    assigned = np.empty(len(lengths), dtype=np.int64)
    numbers = np.zeros(_OPEN_WINDOWS, dtype=np.int64)
    room = np.full(_OPEN_WINDOWS, -1)
    windows = 0
    for index, length in enumerate(np.asarray(lengths).tolist()):
        slot = int(np.argmax(room >= length))
        if room[slot] < length:
            # Open a new window in an unused slot; if there is none, close the fullest window.
            slot = int(np.argmin(room))
            room[slot], numbers[slot] = capacity, windows
            windows += 1
        room[slot] -= length
        assigned[index] = numbers[slot]
    return assigned


def order_by_window(assigned: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort sequences by the windows that they are assigned to.

    Args:
        assigned: window of each sequence, (sequences,), from 0 without gaps.

    Returns:
        The sequences, (sequences,), and the offsets at which those of each window begin, with the
        end of the last one, (windows + 1,).
    """
    order = np.argsort(assigned, kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.bincount(assigned))])


class PackedDataset(Dataset[dict[str, Tensor]]):
    """Windows of whole prompted sequences; each sequence is in exactly one window.

    An item has four tensors (seq,), int64: "input_ids"; "labels", which are -100 except for the
    tokens of targets; "document_ids", which number the sequences of the window, so that attention
    can be limited to one sequence; and "tasks", the number of the task of each label, or 0 if there
    is no label. A sequence of n tokens takes n - 1 positions, because its last token is not an
    input. The unused end of a window is padding, which counts as a document of its own.

    Args:
        tokens: the stream of tokens.
        bounds: offsets in the stream at which the prompt begins, the target begins, and the
            sequence ends (sequences, 3).
        tasks: number of the task of each sequence, (sequences,), counted from 1.
        sequence_length: positions per window.
        padding: token id for unused positions.

    Raises:
        ValueError: there are no sequences, or one is longer than a window.
    """

    def __init__(
        self,
        tokens: TokenSequence,
        bounds: NDArray[np.int64],
        tasks: NDArray[np.int64],
        sequence_length: int,
        *,
        padding: int,
    ) -> None:
        """Assign sequences to windows; no tokens are read yet."""
        self.tokens = tokens
        self.sequence_length = sequence_length
        self.padding = padding
        self._starts, self._targets, self._ends = bounds[:, 0], bounds[:, 1], bounds[:, 2]
        self._tasks = tasks
        lengths = self._ends - self._starts - 1
        if not len(lengths):
            raise ValueError("there are no prompted sequences; give more rows")
        longest, too_long = lengths.max(), (lengths > sequence_length).sum()
        if too_long:
            raise ValueError(
                f"sequence_length={sequence_length} is shorter than {too_long} of {len(lengths)} "
                f"prompted sequences, which are never cut; use at least {longest}, or remove "
                "the longest rows"
            )
        self._order, self._firsts = order_by_window(pack(lengths, sequence_length))

    def __len__(self) -> int:
        """Number of windows."""
        return len(self._firsts) - 1

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The window `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} does not exist; there are {len(self)}")
        size = self.sequence_length
        window = {
            "input_ids": np.full(size, self.padding, dtype=np.int64),
            "labels": np.full(size, IGNORE_INDEX, dtype=np.int64),
            "document_ids": np.zeros(size, dtype=np.int64),
            "tasks": np.zeros(size, dtype=np.int64),
        }
        first, number = 0, 0
        for sequence in self.sequences(index).tolist():
            start, target, end = (
                int(of[sequence]) for of in (self._starts, self._targets, self._ends)
            )
            tokens = self.tokens[start:end].astype(np.int64)
            last = first + len(tokens) - 1
            answer = slice(first + target - start - 1, last)
            window["input_ids"][first:last] = tokens[:-1]
            window["labels"][answer] = tokens[target - start :]
            window["tasks"][answer] = self._tasks[sequence]
            window["document_ids"][first:last] = number
            first, number = last, number + 1
        window["document_ids"][first:] = number
        return {name: torch.from_numpy(values) for name, values in window.items()}

    def sequences(self, index: int) -> NDArray[np.int64]:
        """Indices of the sequences in a window, in order."""
        return self._order[self._firsts[index] : self._firsts[index + 1]]
