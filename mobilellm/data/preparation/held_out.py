"""Chooses what is held out for validation if a corpus has no validation split.

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

# Places at which a text is cut, the best first: after a blank line, after a line, before a space,
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
    """Whether a document that begins with `text` is held out, for a share of all documents."""
    if not share:
        return False
    digest = hashlib.blake2b(text, digest_size=8, person=b"held_out").digest()
    return int.from_bytes(digest, "big") < share * 2**64


def chunk_bytes(chunk: Chunk) -> bytes:
    """The text of a chunk, or its ids as bytes."""
    return chunk.content if isinstance(chunk.content, bytes) else chunk.content.tobytes()


def last_of(keys: Sequence[Key], share: float) -> set[Key]:
    """The last share of the distinct keys, in order of first occurrence: at least one, not all.

    Empty if there are fewer than two distinct keys.
    """
    different = list(dict.fromkeys(keys))
    count = min(max(round(share * len(different)), 1), len(different) - 1)
    return set(different[len(different) - count :]) if count > 0 else set()


class Outline:
    """The sizes of documents, and which of them are copies of each other."""

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
        """The split at the end of the text.

        Args:
            share: of the bytes of the distinct documents that is held out.
        """
        sizes = dict(self._documents)
        total = sum(sizes.values())
        target = max(min(int(total * (1 - share)), total - 1), 1)
        slack = int(min(share, 1 - share) * total / 2)
        cuts: dict[bytes, int | None] = {}
        end = 0
        for digest, size in sizes.items():
            start, end = end, end + size
            # If a document begins near the exact place, the cut is made there.
            if end <= target or (end < total and end - target <= slack):
                cuts[digest] = None
            elif start and start >= target - slack:
                cuts[digest] = 0
            else:
                cuts[digest] = target - start
        return LastShare(tuple(cuts[digest] for digest, _ in self._documents), slack)


@dataclass(frozen=True)
class LastShare:
    """Splits the text at a place near its end: training text before it, validation text after it.

    The place is at most half of the share away from the exact one. It is between two documents;
    if there is no such place, it is after a blank line, after a line, before a space, or between
    two characters, whichever of these exists first. A document that is cut counts in both splits.
    Copies of a document are cut at the same place, so that no text is in both splits.
    """

    cuts: tuple[int | None, ...]
    """For each document, the byte near which its validation text begins; None: it has none."""
    slack: int
    """Largest distance in bytes from that byte."""

    def route(self, chunks: Iterator[Chunk]) -> Iterator[RoutedChunk]:
        """Assign all chunks of the training text to splits; a chunk that is cut becomes two."""
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
            place = _nearest_boundary(content, target, self.slack)
        else:
            place = min(max(target // content.itemsize, 1), len(content))
        tail: Any = content[place:]
        return Chunk(content[:place], True), Chunk(tail, chunk.ends_document) if len(tail) else None


def _nearest_boundary(text: bytes, target: int, slack: int) -> int:
    """The best place near `target` at which to cut a text so that neither part is empty."""
    slack = max(slack, _MAX_CHARACTER_BYTES)
    first, last = max(target - slack, 1), min(target + slack, len(text) - 1)
    for boundary in _BOUNDARIES:
        # From the byte before: a match that begins there may end at the place of the cut.
        places = [match.end() for match in boundary.finditer(text, max(first - 2, 0), last + 1)]
        inside = [place for place in places if first <= place <= last]
        if inside:
            return min(inside, key=lambda place: abs(place - target))
    return len(text)
