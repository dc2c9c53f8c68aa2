"""Token shards: one stream of tokens in memory-mapped files of equal length.

A split is a folder with `00000.tokens`, `00001.tokens`, … (raw little-endian ids, SHARD_TOKENS in
each file but the last) and `00000.documents`, …: the offsets of the documents that begin in the
shard, in tokens from the start of the stream (uint64).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mobilellm.data.manifest import damaged
from mobilellm.files import write_bytes_atomically

SHARD_TOKENS = 1 << 24
_OFFSET = np.dtype("<u8")


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest type for ids below `vocab_size`: uint16 or uint32, little-endian."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


class TokenSequence(Protocol):
    """A one-dimensional stream of token ids, such as a NumPy array or `TokenStream`."""

    def __len__(self) -> int:
        """Number of tokens."""
        ...

    def __getitem__(self, key: slice, /) -> NDArray[Any]:
        """The tokens of a slice, (tokens,)."""
        ...


class TokenStream:
    """The tokens of a split, read from disk on access.

    It can be pickled; the other process opens the files itself.

    Args:
        folder: of the shards.
        num_tokens: total number of tokens.
        dtype: of the tokens.
        shard_tokens: tokens in every shard but the last.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: a shard has the wrong size.
    """

    def __init__(
        self,
        folder: Path,
        num_tokens: int,
        dtype: DTypeLike,
        *,
        shard_tokens: int = SHARD_TOKENS,
    ) -> None:
        """Check that all shards exist; nothing is read yet."""
        self.folder = Path(folder)
        self.dtype = np.dtype(dtype)
        self.num_tokens = num_tokens
        self.shard_tokens = shard_tokens
        self._maps: dict[int, NDArray[Any]] = {}
        for shard in range(self.num_shards):
            path = shard_path(self.folder, shard)
            expected = min(shard_tokens, num_tokens - shard * shard_tokens) * self.dtype.itemsize
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path} is missing; remove {self.folder.parent} to prepare it again"
                )
            if path.stat().st_size != expected:
                raise ValueError(
                    f"{path} has {path.stat().st_size} bytes, which must be {expected}; remove "
                    f"{self.folder.parent} to prepare it again"
                )

    @property
    def num_shards(self) -> int:
        """Number of shard files."""
        return -(-self.num_tokens // self.shard_tokens)

    def __len__(self) -> int:
        """Number of tokens."""
        return self.num_tokens

    def __getitem__(self, key: slice) -> NDArray[Any]:
        """The tokens of a slice with step 1 (tokens,): a view, or a copy if it spans two files.

        Raises:
            TypeError: the key is not a slice with step 1.
        """
        if not isinstance(key, slice) or key.step not in (None, 1):
            raise TypeError(f"a token stream is read by slices of step 1, not by {key!r}")
        start, stop, _ = key.indices(self.num_tokens)
        parts: list[NDArray[Any]] = []
        while start < stop:
            shard, offset = divmod(start, self.shard_tokens)
            part = self._shard(shard)[offset : offset + stop - start]
            parts.append(part)
            start += len(part)
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)

    def document_starts(self) -> NDArray[np.uint64]:
        """The offset of each document, in tokens from the start of the stream (documents,).

        Raises:
            FileNotFoundError: a file with offsets is missing.
            ValueError: a file with offsets is damaged.
        """
        parts = [
            read_starts(documents_path(self.folder, shard)) for shard in range(self.num_shards)
        ]
        starts = np.concatenate([np.empty(0, _OFFSET), *parts])
        if len(starts) and (starts[0] or starts[-1] >= self.num_tokens):
            raise damaged(documents_path(self.folder, 0), "documents begin outside of the tokens")
        if (starts[1:] <= starts[:-1]).any():
            raise damaged(
                documents_path(self.folder, 0), "documents do not begin one after another"
            )
        return starts

    def __getstate__(self) -> dict[str, Any]:
        """The state without the open files."""
        return {**self.__dict__, "_maps": {}}

    def _shard(self, shard: int) -> NDArray[Any]:
        if shard not in self._maps:
            path = shard_path(self.folder, shard)
            # A plain array on the mapped memory: slicing NumPy's subclass `memmap` is slower.
            self._maps[shard] = np.asarray(np.memmap(path, self.dtype, mode="r"))
        return self._maps[shard]


class ShardWriter:
    """Writes the shards of a split, and continues after an interruption.

    Shards are written atomically, so that all existing ones are complete. A new writer counts the
    complete documents in them (`documents_done`); the caller skips these and continues with the
    next document. Its tokens that are already in a shard are compared and not written again.

    Args:
        folder: of the shards; created if it does not exist.
        dtype: of the tokens.
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
        # The last document that begins in the shards may be incomplete: it is given again.
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
            document_ends: offsets in `tokens` at which documents end, in rising order.

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
            ValueError: the existing shards have more tokens than were given.
        """
        if self._to_check:
            raise self._other_tokens()
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
        """Compare tokens with existing shards; returns those that are not in one."""
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
                raise self._other_tokens()
            self.num_tokens += len(repeated)
            self._to_check -= len(repeated)
        return tokens[len(repeated) :]

    def _other_tokens(self) -> ValueError:
        return ValueError(
            f"the tokens in {self.folder} are not those of this text; remove {self.folder.parent} "
            "to prepare it again"
        )

    def _write_shard(self) -> None:
        tokens = self._buffer[: self._filled]
        starts = np.array(self._starts, _OFFSET)
        # The tokens are written last: if their file exists, that of the documents does too.
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
        starts = [np.empty(0, _OFFSET)]
        size = self.shard_tokens * self.dtype.itemsize
        while True:
            tokens = shard_path(self.folder, self._num_shards)
            documents = documents_path(self.folder, self._num_shards)
            if not (documents.is_file() and tokens.is_file() and tokens.stat().st_size == size):
                return np.concatenate(starts)
            self._digest.update(tokens.read_bytes())
            starts.append(read_starts(documents))
            self._num_shards += 1


def read_starts(path: Path) -> NDArray[np.uint64]:
    """Offsets of the documents that begin in a shard, from the start of the stream (documents,).

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; remove {path.parents[1]} to prepare it again")
    if path.stat().st_size % _OFFSET.itemsize:
        raise damaged(
            path, f"its {path.stat().st_size} bytes are not a multiple of the size of an offset"
        )
    return np.fromfile(path, _OFFSET)


def shard_path(folder: Path, shard: int) -> Path:
    """The file of a shard's tokens."""
    return folder / f"{shard:05d}.tokens"


def documents_path(folder: Path, shard: int) -> Path:
    """The file with the offsets of the documents that begin in a shard."""
    return folder / f"{shard:05d}.documents"
