"""Token shards: one stream of tokens in memory-mapped files of equal length.

A split is a folder with `00000.tokens`, `00001.tokens`, … (raw little-endian ids, SHARD_TOKENS in
each file but the last) and `00000.documents`, …: the offsets of the documents that begin in the
shard, in tokens from the start of the stream (uint64).
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mobilellm.data.manifest import damaged

SHARD_TOKENS = 1 << 24
OFFSET = np.dtype("<u8")


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

    A stream can be pickled; the process that unpickles it opens the files itself.

    Args:
        folder: folder of the shards.
        num_tokens: total number of tokens.
        dtype: number type of the tokens.
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
                    f"{path} is missing; remove {self.folder.parent} to prepare the data again"
                )
            if path.stat().st_size != expected:
                raise ValueError(
                    f"{path} has {path.stat().st_size} bytes, which must be {expected}; remove "
                    f"{self.folder.parent} to prepare the data again"
                )

    @property
    def num_shards(self) -> int:
        """Number of shard files."""
        return -(-self.num_tokens // self.shard_tokens)

    def __len__(self) -> int:
        """Number of tokens."""
        return self.num_tokens

    def __getitem__(self, key: slice) -> NDArray[Any]:
        """The tokens of a slice with step 1, (tokens,): a view, or a copy if it spans files.

        Raises:
            TypeError: the key is not a slice with step 1.
        """
        if not isinstance(key, slice) or key.step not in (None, 1):
            raise TypeError(
                f"a token stream must be indexed with a slice of step 1, not with {key!r}"
            )
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
        starts = np.concatenate([np.empty(0, OFFSET), *parts])
        if len(starts) and (starts[0] or starts[-1] >= self.num_tokens):
            raise damaged(documents_path(self.folder, 0), "a document begins outside the stream")
        if (starts[1:] <= starts[:-1]).any():
            raise damaged(documents_path(self.folder, 0), "offsets of documents do not increase")
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


def read_starts(path: Path) -> NDArray[np.uint64]:
    """Offsets of the documents that begin in a shard, from the start of the stream, (documents,).

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; remove {path.parents[1]} to prepare the data again"
        )
    if path.stat().st_size % OFFSET.itemsize:
        raise damaged(
            path, f"its {path.stat().st_size} bytes are not a multiple of the size of an offset"
        )
    return np.fromfile(path, OFFSET)


def shard_path(folder: Path, shard: int) -> Path:
    """The file of a shard's tokens."""
    return folder / f"{shard:05d}.tokens"


def documents_path(folder: Path, shard: int) -> Path:
    """The file with the offsets of the documents that begin in a shard."""
    return folder / f"{shard:05d}.documents"
