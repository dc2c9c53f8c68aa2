"""Training windows of whole conversations."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mobilellm.data.packing import order_by_window, pack
from mobilellm.data.shards import TokenSequence
from mobilellm.labels import ANSWER_LABELS, IGNORE_INDEX, MARK_TRAINED


@dataclass(frozen=True)
class Kept:
    """What of each conversation fits into a window, in whole turns."""

    bounds: NDArray[np.int64]
    """Begin and end in the stream of the conversations that are kept, (conversations, 1, 2); of
    pairs (pairs, 2, 2)."""
    count: int
    """Number of all conversations or pairs."""
    shortened: int
    """Conversations that lost their last turns."""
    dropped: int
    """Conversations or pairs that are left out: even their first trained turn does not fit, or they
    would have to be shortened."""
    lost_turns: int
    """Trained turns that were left out, of both."""
    needed: int
    """The shortest window, in tokens, into which one of them fits, as far as it must."""


def keep_whole_turns(
    conversations: NDArray[Any],
    turns: NDArray[Any],
    num_tokens: int,
    sequence_length: int,
    *,
    shortens: bool = True,
) -> Kept:
    """Shorten conversations to the turns that fit into a window.

    A conversation of n tokens takes n - 1 positions, because its last token is not an input.

    Args:
        conversations: offset of each conversation in the stream, (conversations,).
        turns: offset of each trained turn with all that stands before it, (turns,); every
            conversation begins with one.
        num_tokens: length of the stream.
        sequence_length: positions per window.
        shortens: whether longer conversations keep the turns that fit; otherwise they are left out.
    """
    starts = conversations.astype(np.int64)
    ends = np.append(starts[1:], num_tokens)
    turn_ends = np.append(turns[1:].astype(np.int64), num_tokens)
    first = np.searchsorted(turn_ends, starts, side="right")
    after = np.searchsorted(turn_ends, ends, side="right")
    room = np.minimum(ends, starts + sequence_length + 1)
    kept = np.searchsorted(turn_ends, room, side="right")
    is_kept = kept > first if shortens else kept == after
    kept = np.where(is_kept, kept, first)
    new_ends = turn_ends[np.maximum(kept, 1) - 1]
    return Kept(
        bounds=np.stack([starts, new_ends], axis=1)[is_kept, None],
        count=len(starts),
        shortened=int((is_kept & (kept < after)).sum()),
        dropped=int((~is_kept).sum()),
        lost_turns=int((after - kept).sum()),
        needed=int(((turn_ends[first] if shortens else ends) - starts).min()) - 1
        if len(starts)
        else 0,
    )


def keep_whole_pairs(
    conversations: NDArray[Any], turns: NDArray[Any], num_tokens: int, sequence_length: int
) -> Kept:
    """Leave out the pairs of conversations that do not fit into a window together.

    Args:
        conversations: offset of each conversation in the stream, (2 * pairs,).
        turns: offset of each trained turn with all that stands before it, (turns,).
        num_tokens: length of the stream.
        sequence_length: positions per window.
    """
    starts = conversations.astype(np.int64)
    bounds = np.stack([starts, np.append(starts[1:], num_tokens)], axis=1).reshape(-1, 2, 2)
    lengths = num_positions(bounds)
    is_kept = lengths <= sequence_length
    num_turns = np.searchsorted(turns, bounds[:, 1, 1]) - np.searchsorted(turns, bounds[:, 0, 0])
    return Kept(
        bounds=bounds[is_kept],
        count=len(bounds),
        shortened=0,
        dropped=int((~is_kept).sum()),
        lost_turns=int(num_turns[~is_kept].sum()),
        needed=int(lengths.min()) if len(lengths) else 0,
    )


def num_positions(bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions that each group of conversations takes in a window, (groups,).

    The last token of a conversation is not an input.

    Args:
        bounds: begin and end of each conversation, (groups, conversations, 2).
    """
    return (bounds[..., 1] - bounds[..., 0] - 1).sum(axis=1)


class ConversationWindows(Dataset[dict[str, Tensor]]):
    """Windows of conversations; each conversation is in exactly one window.

    An item has the tensors (seq,), int64, "input_ids" and "labels", which are -100 except for the
    trained tokens. If several conversations are packed, "document_ids" number them, so that
    attention can be limited to one conversation. The unused end of a window is padding, which has
    no labels and counts as a document of its own.

    Args:
        tokens: the stream of tokens.
        trained: whether each token is trained, 0 or 1 (2: see `PairWindows`); as long as `tokens`.
        bounds: begin and end of each conversation in the stream, (groups, conversations, 2); a
            group stays together, and takes at most `sequence_length` positions.
        sequence_length: positions per window.
        packing: `packed`, or `single` for one group per window.
        padding: token id for unused positions.
    """

    def __init__(
        self,
        tokens: TokenSequence,
        trained: TokenSequence,
        bounds: NDArray[np.int64],
        sequence_length: int,
        *,
        packing: Literal["packed", "single"],
        padding: int,
    ) -> None:
        """Assign conversations to windows; no tokens are read yet."""
        self.tokens = tokens
        self.trained = trained
        self.sequence_length = sequence_length
        self.padding = padding
        self._bounds = bounds
        self.is_shared = packing == "packed" or bounds.shape[1] > 1
        lengths = num_positions(bounds)
        is_packed = packing == "packed"
        assigned = pack(lengths, sequence_length) if is_packed else np.arange(len(lengths))
        self._order, self._firsts = order_by_window(assigned)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self._firsts) - 1

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The window `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} does not exist; there are {len(self)}")
        size = self.sequence_length
        inputs = np.full(size, self.padding, dtype=np.int64)
        targets, marks, documents = np.zeros((3, size), dtype=np.int64)
        groups = self._order[self._firsts[index] : self._firsts[index + 1]]
        first, number = 0, 0
        for start, end in self._bounds[groups].reshape(-1, 2).tolist():
            tokens = self.tokens[start:end].astype(np.int64)
            last = first + len(tokens) - 1
            inputs[first:last], targets[first:last] = tokens[:-1], tokens[1:]
            marks[first:last] = self.trained[start + 1 : end]
            documents[first:last] = number
            first, number = last, number + 1
        documents[first:] = number
        window = {"input_ids": inputs, **self._labels(targets, marks)}
        if self.is_shared:
            window["document_ids"] = documents
        return {name: torch.from_numpy(values) for name, values in window.items()}

    def _labels(
        self, targets: NDArray[np.int64], marks: NDArray[np.int64]
    ) -> dict[str, NDArray[np.int64]]:
        """The labels of a window, from the next tokens and their marks (seq,)."""
        return {"labels": np.where(marks == MARK_TRAINED, targets, IGNORE_INDEX)}


class PairWindows(ConversationWindows):
    """Windows of pairs of conversations, of which the first has the better answer.

    The numbers in "document_ids" are even for better answers, and the next odd ones are the worse
    answers of the same pairs. "labels" are the trained tokens of better answers, and
    "answer_labels" (seq,) are those of all answers.
    """

    def _labels(
        self, targets: NDArray[np.int64], marks: NDArray[np.int64]
    ) -> dict[str, NDArray[np.int64]]:
        every = {ANSWER_LABELS: np.where(marks != 0, targets, IGNORE_INDEX)}
        return super()._labels(targets, marks) | every
