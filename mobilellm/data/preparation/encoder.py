"""Encode text as token ids."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mobilellm.data.tokenizers import SPACE_MARK, Tokenizer

_MAX_CACHED_WORDS = 1 << 18
_MAX_CACHED_BYTES = 64
_PROBE = "A  b c\n\n  d\te \u00bd\ufb01 \u3000x don't 12 or 3 Ends here. And \n so "


class Batch(NamedTuple):
    """Chunks of text to be encoded together."""

    texts: list[bytes]
    begins: list[bool]
    """Whether each begins a document."""
    ends: list[bool]
    """Whether each ends a document."""


class Encoded(NamedTuple):
    """The tokens of a batch."""

    tokens: NDArray[Any]
    """(tokens,)"""
    document_ends: NDArray[np.int64]
    """Offsets at which documents end, in tokens from the start of the batch."""


class Encoder:
    """Encodes like the tokenizer, but several times faster if words can be cached.

    If no token contains the end of a word and the begin of the next, the tokens of a text are those
    of its words, and each distinct word is encoded only once.

    Args:
        tokenizer: the tokenizer.
        dtype: number type of the tokens.
        eos_token_id: appended to each document; None appends nothing.
        bos_token_id: put before each document; None puts nothing.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        dtype: DTypeLike,
        eos_token_id: int | None,
        *,
        bos_token_id: int | None = None,
    ) -> None:
        """Test how the tokenizer treats spaces."""
        self._tokenizer = tokenizer
        self._dtype = np.dtype(dtype)
        self._begin = b"" if bos_token_id is None else self._bytes([bos_token_id])
        self._end = b"" if eos_token_id is None else self._bytes([eos_token_id])
        self._adds_space = tokenizer.adds_space
        self._cache = _WordCache(self._encode_word)
        self.by_word = False
        self.by_word = self._words_are_independent()

    def encode(self, batch: Batch) -> Encoded:
        """The tokens of each chunk, with BOS before and EOS after whole documents, if wanted."""
        parts: list[bytes] = []
        ends: list[int] = []
        size = 0
        for text, begins, is_last in zip(*batch, strict=True):
            encoded = self._encode_chunk(text, begins)
            if begins:
                encoded = self._begin + encoded
            parts.append(encoded)
            size += len(encoded)
            if is_last:
                parts.append(self._end)
                size += len(self._end)
                ends.append(size // self._dtype.itemsize)
        tokens = np.frombuffer(b"".join(parts), self._dtype)
        return Encoded(tokens, np.array(ends, dtype=np.int64))

    def _encode_chunk(self, text: bytes, begins_document: bool) -> bytes:
        if not self.by_word:
            drop = self._adds_space and not begins_document and text.startswith(b" ")
            return self._bytes(self._tokenizer.encode(text[drop:]))
        words = self._tokenizer.words(text)
        if self._adds_space and begins_document and words:
            first = self._bytes(self._tokenizer.encode(words[0]))
            return first + b"".join(map(self._cache.__getitem__, words[1:]))
        return b"".join(map(self._cache.__getitem__, words))

    def _encode_word(self, word: bytes) -> bytes:
        if self._adds_space and word == b" ":
            # Without its space the word is empty, and no space is added to an empty text.
            space = self._tokenizer.find(SPACE_MARK)
            return self._bytes(self._tokenizer.encode(word) if space is None else [space])
        drop = self._adds_space and word.startswith(b" ")
        return self._bytes(self._tokenizer.encode(word[drop:]))

    def _bytes(self, tokens: Sequence[int]) -> bytes:
        return np.array(tokens, dtype=self._dtype).tobytes()

    def _words_are_independent(self) -> bool:
        if not self._tokenizer.words_are_independent():
            return False
        whole = self._encode_chunk(_PROBE.encode(), True)
        self.by_word = True
        return self._encode_chunk(_PROBE.encode(), True) == whole


class _WordCache(dict[bytes, bytes]):
    """A cache of the tokens of words; it is emptied when it is full."""

    def __init__(self, encode: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self._encode = encode

    def __missing__(self, word: bytes) -> bytes:
        encoded = self._encode(word)
        if len(word) <= _MAX_CACHED_BYTES:
            if len(self) >= _MAX_CACHED_WORDS:
                self.clear()
            self[word] = encoded
        return encoded
