"""Write token shards; after an interruption, continue after the complete ones."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mobilellm.data.shards import (
    OFFSET,
    SHARD_TOKENS,
    TokenStream,
    documents_path,
    read_starts,
    shard_path,
)
from mobilellm.files import write_bytes_atomically


class ShardWriter:
    """Writes the shards of a split, and continues after an interruption.

    Shards are written atomically, so that all existing ones are complete. A new writer counts the
    complete documents in them (`documents_done`); the caller skips these and continues with the
    next document. Tokens of that document that are already in a shard are compared with it.

    Args:
        folder: folder of the shards; created if it does not exist.
        dtype: number type of the tokens.
        shard_tokens: tokens in every shard but the last.
    """

    def __init__(self, folder: Path, dtype: DTypeLike, *, shard_tokens: int = SHARD_TOKENS) -> None:
        """Find the complete shards."""
        self.folder = folder
        self.dtype = np.dtype(dtype)
        self.shard_tokens = shard_tokens
        self.remaining_bytes = 0
        """Expected size of the tokens still to come, for the message if the disk is full."""
        self._digest = hashlib.blake2b(digest_size=16)
        self._num_shards = 0
        folder.mkdir(parents=True, exist_ok=True)
        starts = self._recover()
        # The last document that begins in the shards may be incomplete: the caller repeats it.
        self.documents_done = max(len(starts) - 1, 0)
        self.num_tokens = int(starts[-1]) if len(starts) else 0
        self.num_documents = self.documents_done
        self._to_check = self._num_shards * shard_tokens - self.num_tokens
        self._buffer = np.empty(shard_tokens, self.dtype)
        self._filled = 0
        self._starts: list[int] = []
        self._begins_document = True

    def append(
        self, tokens: NDArray[Any], document_ends: Sequence[int] | NDArray[np.int64]
    ) -> None:
        """Write the next tokens.

        Args:
            tokens: (tokens,).
            document_ends: offsets in `tokens` at which documents end, in increasing order.

        Raises:
            OSError: ENOSPC if the disk is full; the shards written so far are kept.
            ValueError: the tokens differ from those in an existing shard.
        """
        first = 0
        for end in (*np.asarray(document_ends).tolist(), None):
            self._append_part(tokens[first:end], ends_document=end is not None)
            first = end or 0

    def finish(self) -> str:
        """Write the last shard and return the hash of the whole stream.

        Raises:
            ValueError: the existing shards have more tokens than were appended.
        """
        if self._to_check:
            raise self._mismatch_error()
        if self._filled:
            self._write_shard()
        self._buffer = self._buffer[:0].copy()
        return self._digest.hexdigest()

    def _append_part(self, tokens: NDArray[Any], *, ends_document: bool) -> None:
        if len(tokens) and self._begins_document:
            self.num_documents += 1
            if self.num_documents > self.documents_done + 1 or not self._num_shards:
                self._starts.append(self.num_tokens)
            self._begins_document = False
        tokens = self._check_repeated(tokens)
        while len(tokens):
            part = tokens[: self.shard_tokens - self._filled]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            self.num_tokens += len(part)
            tokens = tokens[len(part) :]
            if self._filled == self.shard_tokens:
                self._write_shard()
        if ends_document:
            self._begins_document = True

    def _check_repeated(self, tokens: NDArray[Any]) -> NDArray[Any]:
        """Compare tokens with the existing shards, and return those that are in none of them."""
        repeated = tokens[: self._to_check]
        if len(repeated):
            existing = TokenStream(
                self.folder,
                self._num_shards * self.shard_tokens,
                self.dtype,
                shard_tokens=self.shard_tokens,
            )
            if not np.array_equal(
                existing[self.num_tokens : self.num_tokens + len(repeated)], repeated
            ):
                raise self._mismatch_error()
            self.num_tokens += len(repeated)
            self._to_check -= len(repeated)
        return tokens[len(repeated) :]

    def _mismatch_error(self) -> ValueError:
        return ValueError(
            f"the tokens in {self.folder} are not those of this text; remove {self.folder.parent} "
            "to prepare the data again"
        )

    def _write_shard(self) -> None:
        tokens = self._buffer[: self._filled]
        starts = np.array(self._starts, OFFSET)
        # The tokens are written last: if their file exists, the file of the documents does too.
        write_bytes_atomically(documents_path(self.folder, self._num_shards), [starts])
        write_bytes_atomically(
            shard_path(self.folder, self._num_shards),
            [tokens],
            remaining_bytes=self.remaining_bytes,
        )
        self._digest.update(tokens.tobytes())
        self._num_shards += 1
        self._filled = 0
        self._starts = []

    def _recover(self) -> NDArray[np.uint64]:
        """Keep the complete shards; shards after a gap and partly filled ones are written again."""
        starts = [np.empty(0, OFFSET)]
        size = self.shard_tokens * self.dtype.itemsize
        while True:
            tokens = shard_path(self.folder, self._num_shards)
            documents = documents_path(self.folder, self._num_shards)
            if not (documents.is_file() and tokens.is_file() and tokens.stat().st_size == size):
                return np.concatenate(starts)
            self._digest.update(tokens.read_bytes())
            starts.append(read_starts(documents))
            self._num_shards += 1
