"""Choose the validation text of a corpus that has no validation split.

Whole documents are held out, chosen by a hash of their beginning. If there are so few documents
that one of the splits would have none, the end of the text is held out instead.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from mobilellm.data.source import Chunk, Split

Key = TypeVar("Key")

# Where a text may be cut, in order of preference: after a blank line, after a line, before a space,
# and between any two characters.
_BOUNDARIES = (
    re.compile(rb"\n(?:[ \t\r]*\n)+"),
    re.compile(rb"\n"),
    re.compile(rb"(?<! )(?= )"),
    re.compile(rb"(?=[\x00-\x7f\xc0-\xff])"),
)
_MAX_CHARACTER_BYTES = 4


class RoutedChunk(NamedTuple):
    """A chunk and the split that it belongs to."""

    split: Split
    chunk: Chunk
    begins_document: bool


def is_held_out(text: bytes, share: float) -> bool:
    """Whether a document that begins with `text` is held out if `share` of all documents are."""
    if not share:
        return False
    digest = hashlib.blake2b(text, digest_size=8, person=b"held_out").digest()
    return int.from_bytes(digest, "big") < share * 2**64


def chunk_bytes(chunk: Chunk) -> bytes:
    """The text of a chunk, or its ids as bytes."""
    return chunk.content if isinstance(chunk.content, bytes) else chunk.content.tobytes()


def last_share_of(keys: Sequence[Key], share: float) -> set[Key]:
    """The last `share` of the distinct keys, in order of first occurrence: at least one, not all.

    The result is empty if there are fewer than two distinct keys.
    """
    different = list(dict.fromkeys(keys))
    count = min(max(round(share * len(different)), 1), len(different) - 1)
    return set(different[len(different) - count :]) if count > 0 else set()


class Outline:
    """Sizes and hashes of the documents of a text, from which it can be split near its end."""

    def __init__(self) -> None:
        """Start without documents."""
        self._documents: list[tuple[bytes, int]] = []
        self._begin()

    def add(self, chunk: Chunk) -> None:
        """Add the next chunk of the text."""
        content = chunk_bytes(chunk)
        self._digest.update(content)
        self._size += len(content)
        if chunk.ends_document:
            self._documents.append((self._digest.digest(), self._size))
            self._begin()

    def _begin(self) -> None:
        self._digest, self._size = hashlib.blake2b(digest_size=16), 0

    def last_share(self, share: float) -> "LastShare":
        """The split that holds out the end of the text.

        Args:
            share: fraction of the bytes of the distinct documents that is held out.
        """
        sizes = dict(self._documents)
        total = sum(sizes.values())
        target = max(min(int(total * (1 - share)), total - 1), 1)
        slack = int(min(share, 1 - share) * total / 2)
        cuts: dict[bytes, int | None] = {}
        end = 0
        for digest, size in sizes.items():
            start, end = end, end + size
            # If a document begins near the exact position, the cut is made there.
            if end <= target or (end < total and end - target <= slack):
                cuts[digest] = None
            elif start and start >= target - slack:
                cuts[digest] = 0
            else:
                cuts[digest] = target - start
        return LastShare(tuple(cuts[digest] for digest, _ in self._documents), slack)


@dataclass(frozen=True)
class LastShare:
    """Cuts the text near its end: training text before the cut, validation text after it.

    The cut is at most half of the share away from the exact position. It is made between two
    documents if possible, otherwise at the best of these: after a blank line, after a line, before
    a space, between two characters. A document that is cut counts in both splits. Copies of a
    document are cut at the same position, so that no text is in both splits.
    """

    cuts: tuple[int | None, ...]
    """For each document, the byte near which its validation text begins; None if it has none."""
    slack: int
    """Largest distance in bytes from that byte."""

    def route(self, chunks: Iterator[Chunk]) -> Iterator[RoutedChunk]:
        """Assign all chunks of the text to splits; a chunk that is cut becomes two."""
        document, position, begins = 0, 0, True
        split: Split = "train"
        for chunk in chunks:
            size = len(chunk_bytes(chunk))
            cut = self.cuts[document]
            if position == 0:
                split = "validation" if cut == 0 else "train"
            if cut and split == "train" and cut < position + size:
                head, tail = self._cut(chunk, cut - position)
                yield RoutedChunk("train", head, begins)
                split, begins = "validation", True
                if tail is not None:
                    yield RoutedChunk("validation", tail, True)
                    begins = tail.ends_document
            else:
                yield RoutedChunk(split, chunk, begins)
                begins = chunk.ends_document
            position += size
            if chunk.ends_document:
                document, position, begins = document + 1, 0, True

    def _cut(self, chunk: Chunk, target: int) -> tuple[Chunk, Chunk | None]:
        """Cut a chunk into the end of the training text and the beginning of the held-out text."""
        content = chunk.content
        if isinstance(content, bytes):
            cut = _nearest_boundary(content, target, self.slack)
        else:
            cut = min(max(target // content.itemsize, 1), len(content))
        tail: Any = content[cut:]
        return Chunk(content[:cut], True), Chunk(tail, chunk.ends_document) if len(tail) else None


def _nearest_boundary(text: bytes, target: int, slack: int) -> int:
    """The best position near `target` at which to cut a text so that neither part is empty."""
    slack = max(slack, _MAX_CHARACTER_BYTES)
    first, last = max(target - slack, 1), min(target + slack, len(text) - 1)
    for boundary in _BOUNDARIES:
        # The search begins before `first`, because a match may begin there and end in the range.
        ends = [match.end() for match in boundary.finditer(text, max(first - 2, 0), last + 1)]
        inside = [end for end in ends if first <= end <= last]
        if inside:
            return min(inside, key=lambda end: abs(end - target))
    return len(text)
