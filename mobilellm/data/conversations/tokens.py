"""The tokens of conversations, and which of them are trained."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilellm.data.conversations.chat_format import ChatFormat
from mobilellm.data.conversations.trained_parts import RenderedText, render_conversation
from mobilellm.data.conversations.turns import Conversation
from mobilellm.data.tokenizers import Tokenizer


@dataclass(frozen=True)
class ConversationTokens:
    """The tokens of a conversation up to the last one that is trained."""

    tokens: NDArray[np.int64]
    """(tokens,)"""
    is_trained: NDArray[np.bool_]
    """Whether each token is predicted in training, (tokens,)."""
    begins: tuple[int, ...]
    """Offset of the first trained token of each trained turn."""
    ends: tuple[int, ...]
    """Offset after the last token of each trained turn, which ends the turn."""
    turns: tuple[int, ...]
    """Index of each trained turn in the conversation."""


def tokenize_conversation(conversation: Conversation, form: ChatFormat) -> list[ConversationTokens]:
    """Tokenize a conversation; usually to one sequence, see `render_conversation`.

    A token is trained if all its characters belong to the words of a trained turn, or are white
    space directly before them, up to the special token that ends the turn. What a template writes
    after that token, such as a line break, is not trained, because generation stops there.

    Returns:
        Nothing if no turn is trained.

    Raises:
        ValueError: see `render_conversation`; or a turn does not end with a special token, so that
            no model could learn to end it.
    """
    return [
        _tokenize(rendered, form.tokenizer, conversation)
        for rendered in render_conversation(conversation, form)
    ]


def _tokenize(
    rendered: RenderedText, tokenizer: Tokenizer, conversation: Conversation
) -> ConversationTokens:
    ids, spans = tokenizer.encode_spans(rendered.text)
    tokens = np.asarray(ids, dtype=np.int64)
    bounds = np.asarray(spans, dtype=np.int64).reshape(len(spans), 2)
    is_special = np.isin(tokens, list(tokenizer.special_ids))
    begins, ends = [], []
    for part in rendered.parts:
        found = _turn_tokens(part, bounds, is_special, rendered.text)
        if found is None:
            raise ValueError(
                f"{conversation.place}: the chat template of {tokenizer.path.parent} does not end "
                f"the message {_shown(rendered.text[slice(*part)])} with a special token, so that "
                "a model could not learn to end it; correct the template, for example by "
                "{{ eos_token }} after the content"
            )
        begins.append(found[0])
        ends.append(found[1])
    is_trained = np.zeros(len(tokens), dtype=np.bool_)
    for begin, end in zip(begins, ends, strict=True):
        is_trained[begin:end] = True
    return ConversationTokens(
        tokens[: ends[-1]], is_trained[: ends[-1]], tuple(begins), tuple(ends), rendered.turns
    )


def _turn_tokens(
    part: tuple[int, int], bounds: NDArray[Any], is_special: NDArray[np.bool_], text: str
) -> tuple[int, int] | None:
    """Offsets of the first and after the last trained token of a turn.

    None if the turn does not end with a special token, which may also follow the part directly.
    """
    first, last = part
    starts, stops = bounds[:, 0], bounds[:, 1]
    # The white space that ends a header may be one token with the first word of the turn.
    before = np.flatnonzero((starts < first) & (stops > first) & (stops <= last))
    if len(before) and text[starts[before[-1]] : first].isspace():
        first = int(starts[before[-1]])
    # The next token after the part may belong to the text after it although it has no characters.
    inside = np.flatnonzero((starts >= first) & (starts < last) & (stops <= last))
    special = inside[is_special[inside]]
    if len(special) and not text[bounds[special[-1], 1] : last].strip():
        return int(inside[0]), int(special[-1]) + 1
    after = int(np.searchsorted(bounds[:, 0], last))
    if after < len(bounds) and bounds[after, 0] == last and is_special[after]:
        return (int(inside[0]) if len(inside) else after), after + 1
    return None


def _shown(text: str, most: int = 40) -> str:
    return repr(text if len(text) <= most else f"{text[:most]}…")
