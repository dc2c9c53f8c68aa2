"""Tokenizers: one protocol, for SentencePiece models and for Hugging Face's tokenizer.json."""

from mobilellm.data.tokenizers.opening import (
    OWN_FILES,
    check_tokenizer_file,
    find_tokenizer_file,
    load_tokenizer,
    open_tokenizer,
)
from mobilellm.data.tokenizers.tokenizer import SPACE_MARK, Message, Tokenizer

__all__ = [
    "OWN_FILES",
    "SPACE_MARK",
    "Message",
    "Tokenizer",
    "check_tokenizer_file",
    "find_tokenizer_file",
    "load_tokenizer",
    "open_tokenizer",
]
