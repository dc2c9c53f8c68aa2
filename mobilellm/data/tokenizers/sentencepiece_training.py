"""Training of SentencePiece models.

A trained model is lossless: it uses byte-pair encoding of text without normalisation, encodes rare
characters as bytes, and neither adds nor removes spaces. The only exception is U+2581: it is
SentencePiece's mark for a space, and is therefore decoded as a space.
"""

import io
import re
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mobilellm.data.source import cut_text
from mobilellm.data.tokenizers.even_sample import MAX_PART_BYTES
from mobilellm.units import bytes_text

UNKNOWN_ID, BOS_ID, EOS_ID = 0, 1, 2

# SentencePiece also skips sentences with NUL or with U+2585, its character for unknown tokens.
_RESERVED = [0x0000, 0x2585]
# Share of the text's characters that the characters with a token of their own must cover.
_CHARACTER_COVERAGE = 0.9995
_PARTS_PER_COUNT = 256
_NUM_SPECIAL = 3 + 256


def train_sentencepiece(parts: Sequence[bytes], vocab_size: int) -> bytes:
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
            max_sentence_length=MAX_PART_BYTES,
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
            yield from cut_text(sentence.encode(), MAX_PART_BYTES)


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
