"""Generated tokens as text."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mobilellm.data.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Answer:
    """What a model wrote."""

    text: str
    """Without the token that ends it, and without space around it."""
    tokens: int
    """Generated tokens, the one that ends the answer included."""
    is_cut: bool
    """Whether the limit ended it, and not the model."""


def read_answer(tokenizer: Tokenizer, tokens: Sequence[int], ends: Collection[int]) -> Answer:
    """The answer that generated tokens begin with.

    Args:
        tokenizer: of the model.
        tokens: what the model generated; anything may follow the first token that ends the answer.
        ends: tokens that end an answer.
    """
    end = next((place for place, token in enumerate(tokens) if token in ends), None)
    own = tokens[:end]
    return Answer(decode_known(tokenizer, own).strip(), len(own) + (end is not None), end is None)


def decode_known(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """Decode tokens without those of a padded embedding, which the tokenizer does not have."""
    return tokenizer.decode([token for token in tokens if token < tokenizer.vocab_size])
