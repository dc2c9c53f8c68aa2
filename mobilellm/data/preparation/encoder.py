"""Encode text as token ids."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mobilellm.data.tokenizer import SPACE_MARK

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

_MAX_CACHED_WORDS = 1 << 18
_MAX_CACHED_BYTES = 64
# Spaces belong to the word after them, as in the tokens of SentencePiece.
_WORDS = re.compile(rb" *[^ ]+| +")
_PROBE = "A  b c\n\n  d\te \u00bd\ufb01 \u3000x "


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
    """Encodes like SentencePiece, but several times faster if words can be cached.

    If no token of the model contains a character followed by a space, the tokens of a text are
    those of its words, and each distinct word is encoded only once.

    Args:
        processor: the SentencePiece model.
        dtype: number type of the tokens.
        eos_token_id: appended to each document; None appends nothing.
    """

    def __init__(
        self, processor: "SentencePieceProcessor", dtype: DTypeLike, eos_token_id: int | None
    ) -> None:
        """Test how the model treats spaces."""
        self._processor = processor
        self._dtype = np.dtype(dtype)
        self._end = b"" if eos_token_id is None else self._bytes([eos_token_id])
        # Some models, such as Llama's, prepend a space to every text.
        self._adds_space = str(processor.encode("a", out_type=str)[0]).startswith(SPACE_MARK)
        self._cache = _WordCache(self._encode_word)
        self.by_word = False
        self.by_word = self._words_are_independent()

    def encode(self, batch: Batch) -> Encoded:
        """The tokens of each chunk, with EOS after those that end a document."""
        parts: list[bytes] = []
        ends: list[int] = []
        size = 0
        for text, begins, is_last in zip(*batch, strict=True):
            encoded = self._encode_chunk(text, begins)
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
            return self._bytes(self._processor.encode(text[drop:]))
        words = _WORDS.findall(text)
        if self._adds_space and begins_document and words:
            first = self._bytes(self._processor.encode(words[0]))
            return first + b"".join(map(self._cache.__getitem__, words[1:]))
        return b"".join(map(self._cache.__getitem__, words))

    def _encode_word(self, word: bytes) -> bytes:
        if self._adds_space and word == b" ":
            # Without its space the word is empty, and the model adds no space to an empty text.
            return self._bytes([self._processor.piece_to_id(SPACE_MARK)])
        drop = self._adds_space and word.startswith(b" ")
        return self._bytes(self._processor.encode(word[drop:]))

    def _bytes(self, tokens: Sequence[int]) -> bytes:
        return np.array(tokens, dtype=self._dtype).tobytes()

    def _words_are_independent(self) -> bool:
        tokens = map(self._processor.id_to_piece, range(self._processor.vocab_size()))
        if any(SPACE_MARK in token.lstrip(SPACE_MARK) for token in tokens):
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
