"""Training of a new tokenizer, of the kind that the configuration names."""

from collections.abc import Sequence
from typing import Literal, get_args

from mobilellm.data.tokenizers.byte_level_training import train_byte_level
from mobilellm.data.tokenizers.sentencepiece_training import BOS_ID, EOS_ID, train_sentencepiece
from mobilellm.files import TOKENIZER_FILE

TokenizerKind = Literal["sentencepiece", "byte_level"]
KINDS: tuple[str, ...] = get_args(TokenizerKind)
# Tokens that every vocabulary has: the special tokens and one token for each byte.
SMALLEST = {"sentencepiece": 3 + 256, "byte_level": 1 + 256}


def special_ids(kind: str) -> tuple[int, int]:
    """The begin- and end-of-text tokens of a new tokenizer.

    A new byte-level tokenizer has one token for both.
    """
    return (BOS_ID, EOS_ID) if kind == "sentencepiece" else (0, 0)


def train_tokenizer(kind: str, parts: Sequence[bytes], vocab_size: int) -> dict[str, bytes]:
    """Train a tokenizer.

    Args:
        kind: `sentencepiece` or `byte_level`.
        parts: UTF-8 text.
        vocab_size: exact number of ids.

    Returns:
        The contents of its files by name, the tokenizer itself first.

    Raises:
        ValueError: the text is empty, or too small for the vocabulary size.
    """
    if kind == "sentencepiece":
        return {TOKENIZER_FILE: train_sentencepiece(parts, vocab_size)}
    return train_byte_level(parts, vocab_size)
