"""SentencePiece models: training, loading, and the bytes of text per token.

A trained model is lossless: it uses byte-pair encoding of text without normalisation, encodes rare
characters as bytes, and neither adds nor removes spaces. The only exception is U+2581: it is
SentencePiece's mark for a space, and is therefore decoded as a space.
"""

import hashlib
import io
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobilellm.data.source import cut_text
from mobilellm.files import TOKENIZER_FILE, describe_invalid_file
from mobilellm.units import bytes_text

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

UNKNOWN_ID, BOS_ID, EOS_ID = 0, 1, 2
SPACE_MARK = "\u2581"

# SentencePiece skips longer training sentences without a warning.
_MAX_SENTENCE_BYTES = 4192
# SentencePiece also skips sentences with NUL or with U+2585, its character for unknown tokens.
_RESERVED = [0x0000, 0x2585]
# Share of the text's characters that the characters with a token of their own must cover.
_CHARACTER_COVERAGE = 0.9995
_PARTS_PER_COUNT = 256
_NUM_SPECIAL = 3 + 256


class EvenSample:
    """A sample of a text of unknown length: parts of at most `max_bytes` in all, spread evenly.

    At first every part is kept. Whenever the sample becomes too large, every second part is
    dropped, and only half as many of the following parts are kept. The memory is bounded, one pass
    is enough, and the same text gives the same sample.

    Args:
        max_bytes: largest size of the sample.
    """

    def __init__(self, max_bytes: int) -> None:
        """Start with an empty sample."""
        self.max_bytes = max_bytes
        self.parts: list[bytes] = []
        self.num_bytes = 0
        self._stride = 1
        self._num_seen = 0

    def add(self, text: bytes) -> None:
        """Add the next part of the text."""
        for part in cut_text(text, _MAX_SENTENCE_BYTES):
            if self._num_seen % self._stride == 0:
                self.parts.append(part)
                self.num_bytes += len(part)
                while self.num_bytes > self.max_bytes and len(self.parts) > 1:
                    self.parts = self.parts[::2]
                    self.num_bytes = sum(map(len, self.parts))
                    self._stride *= 2
            self._num_seen += 1


def train_tokenizer(parts: Sequence[bytes], vocab_size: int) -> bytes:
    """Train byte-pair encoding with the ids unk 0, bos 1 and eos 2.

    Args:
        parts: UTF-8 text.
        vocab_size: exact number of ids.

    Returns:
        The bytes of the model file; the same text gives the same bytes.

    Raises:
        ValueError: the text is empty, or too small for the vocabulary size.
    """
    from sentencepiece import SentencePieceTrainer

    num_bytes = sum(map(len, parts))
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(  # pyright: ignore[reportAttributeAccessIssue]
            sentence_iterator=_sentences(parts, vocab_size),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=1.0,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            max_sentence_length=_MAX_SENTENCE_BYTES,
            unk_id=UNKNOWN_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            pad_id=-1,
            # Fixed, because the model file contains it: the same text must give the same file.
            num_threads=2,
            minloglevel=2,
        )
    except RuntimeError as error:
        most = re.search(r"value <= (\d+)", str(error))
        if most is None and "sentences_.empty()" not in str(error):
            raise
        advice = f"use model.vocab_size={most.group(1)} or less, or " if most else "use "
        raise ValueError(
            f"vocab_size={vocab_size} is too large for the {bytes_text(num_bytes)} of text that "
            f"the tokenizer is trained on; {advice}more text"
        ) from None
    return model.getvalue()


def load_tokenizer(
    path: Path, vocab_size: int, *, name: str = "data.tokenizer="
) -> "SentencePieceProcessor":
    """Load a SentencePiece model with at most `vocab_size` tokens.

    Args:
        path: path of the model file.
        vocab_size: number of rows of the language model's embedding.
        name: text before the path in messages.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a SentencePiece model, or has more than `vocab_size` tokens.
    """
    processor = open_tokenizer(path, name=name)
    size = processor.vocab_size()
    if size > vocab_size:
        raise ValueError(
            f"{name}{path} has {size} tokens, more than the model's vocab_size={vocab_size}; use "
            f"model.vocab_size={size} or more, or the model's own tokenizer"
        )
    return processor


def open_tokenizer(path: Path, *, name: str = "data.tokenizer=") -> "SentencePieceProcessor":
    """Load a SentencePiece model of any size; arguments and errors as for `load_tokenizer`."""
    from sentencepiece import SentencePieceProcessor

    check_tokenizer_file(path, name=name)
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(path.read_bytes())
    except RuntimeError:
        kind = (
            describe_invalid_file(path) or f"{_kind_of(path)}; give a SentencePiece tokenizer.model"
        )
        raise ValueError(f"{name}{path} {kind}") from None
    return processor


def check_tokenizer_file(path: Path, *, name: str = "data.tokenizer=") -> None:
    """Check that a path is a file.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: it is a folder; the message names the tokenizer in it, if there is one.
    """
    if path.is_dir():
        inside = path / TOKENIZER_FILE
        advice = f"file in it, {inside}" if inside.is_file() else f"SentencePiece {TOKENIZER_FILE}"
        raise ValueError(f"{name}{path} is a folder; give the {advice}")
    if not path.is_file():
        raise FileNotFoundError(
            f"{name}{path} does not exist; give a SentencePiece {TOKENIZER_FILE}"
        )


def _kind_of(path: Path) -> str:
    """Describe, for messages, a file that is not a SentencePiece model."""
    with path.open("rb") as file:
        begin = file.read(512)
    if begin.lstrip()[:1] == b"{":
        return "is JSON, like the tokenizer.json of Hugging Face, which is not supported"
    if re.match(rb"[A-Za-z0-9+/]+=* \d+\r?\n", begin):
        return "is a tiktoken tokenizer, which is not supported"
    return "is not a SentencePiece model"


def tokenizer_hash(processor: "SentencePieceProcessor") -> str:
    """Hash of tokens and scores: equal for files that differ only in the training settings."""
    digest = hashlib.blake2b(digest_size=16)
    for token in range(processor.vocab_size()):
        digest.update(f"{processor.id_to_piece(token)}\t{processor.get_score(token)!r}\n".encode())
    return digest.hexdigest()


def token_byte_counts(
    processor: "SentencePieceProcessor", num_ids: int | None = None
) -> NDArray[np.int32]:
    """Bytes of UTF-8 text that each token stands for, (vocab,); 0 for BOS, EOS and unknown.

    Args:
        processor: the tokenizer.
        num_ids: number of entries; entries beyond the tokenizer's tokens are 0. Default: the number
            of its tokens.
    """
    counts = np.zeros(num_ids or processor.vocab_size(), dtype=np.int32)
    for token in range(processor.vocab_size()):
        if processor.is_byte(token):
            counts[token] = 1
        elif not (processor.is_control(token) or processor.is_unknown(token)):
            counts[token] = len(processor.id_to_piece(token).replace(SPACE_MARK, " ").encode())
    return counts


def _sentences(parts: Sequence[bytes], vocab_size: int) -> Iterator[bytes]:
    """Yield the sentences to train on, without the rarest characters of the text.

    Rare characters are encoded as bytes. At most half of the vocabulary is used for single
    characters: otherwise a small vocabulary for a text with many of them, such as Chinese, would
    have no other tokens.
    """
    is_kept = _frequent_characters(parts, (vocab_size - _NUM_SPECIAL) // 2)
    for part in parts:
        characters = np.frombuffer(part.decode().encode("utf-32-le"), "<u4")
        characters = np.where(is_kept[characters], characters, 0)
        for sentence in characters.tobytes().decode("utf-32-le").split("\0"):
            yield from cut_text(sentence.encode(), _MAX_SENTENCE_BYTES)


def _frequent_characters(parts: Sequence[bytes], most: int) -> NDArray[np.bool_]:
    """Whether each code point gets a token of its own, (code points,)."""
    counts = np.zeros(sys.maxunicode + 1, dtype=np.int64)
    for first in range(0, len(parts), _PARTS_PER_COUNT):
        text = b"".join(parts[first : first + _PARTS_PER_COUNT]).decode()
        characters = np.frombuffer(text.encode("utf-32-le"), "<u4")
        counts += np.bincount(characters, minlength=len(counts))
    counts[_RESERVED] = 0
    order = np.argsort(-counts, kind="stable")[: max(most, 1)]
    enough = np.searchsorted(np.cumsum(counts[order]), _CHARACTER_COVERAGE * counts.sum()) + 1
    is_kept = np.zeros(len(counts), dtype=bool)
    is_kept[order[:enough]] = counts[order[:enough]] > 0
    return is_kept
