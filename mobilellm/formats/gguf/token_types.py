"""Types of tokens in GGUF files, and names of tokens that only fill the vocabulary.

The numbers are those of SentencePiece.
"""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def padding_piece(token: int) -> str:
    """The name of a row of the embedding that is no token of the tokenizer."""
    return f"[PAD{token}]"
