"""Writes conversations as text by a chat template, and finds the characters that are trained.

The template writes the messages before a turn as the prompt of an answer, and then the messages up
to and including the turn. What the second text has more than the first are the words of the turn.
If a template marks the words itself by `{% generation %}`, its marks are used. Some templates write
a message differently once others follow it, for example without the reasoning; each trained turn
then becomes a text of its own, which ends with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm.data.conversations.chat_format import ChatFormat
from mobilellm.data.conversations.turns import Conversation
from mobilellm.data.tokenizers.chat_template import BEGIN_MARK, END_MARK

Message = Mapping[str, Any]
# Contents without a common first character: what two messages with them have in common is the
# header that the template writes before any content.
_PROBES = ("aaaa", "bbbb")


@dataclass(frozen=True)
class RenderedText:
    """A conversation, or its first messages, as text."""

    text: str
    parts: tuple[tuple[int, int], ...]
    """First and last character (exclusive) of each trained turn's words; the text after them may
    still belong to the turn."""
    turns: tuple[int, ...]
    """Index of the turn of each part."""


def render_conversation(conversation: Conversation, form: ChatFormat) -> list[RenderedText]:
    """Write a conversation as text, and find what is trained.

    Args:
        conversation: of which turns of the assistant and the parser are trained.
        form: the template and its protocol.

    Returns:
        One text; several if the template writes messages differently once others follow, and none
        if no turn is trained.

    Raises:
        ValueError: the template refuses the conversation, or it is not possible to say which
            characters belong to a turn.
    """
    pairs = form.messages(conversation)
    messages = [message for message, _ in pairs]
    trained = [
        (place, turn)
        for place, (_, turn) in enumerate(pairs)
        if turn is not None and conversation.trains(turn)
    ]
    if not trained:
        return []
    try:
        return _rendered(messages, trained, conversation, form)
    except ValueError as error:
        raise ValueError(f"{conversation.place}: {error}") from None


def _rendered(
    messages: Sequence[Message],
    trained: Sequence[tuple[int, int]],
    conversation: Conversation,
    form: ChatFormat,
) -> list[RenderedText]:
    marked = form.render(messages, conversation, keep_marks=True)
    turns = tuple(turn for _, turn in trained)
    text, parts = _without_marks(marked)
    if len(parts) == len(trained):
        return [RenderedText(text, tuple(parts), turns)]
    found = [_words(messages, place, conversation, form) for place, _ in trained]
    if all(text.startswith(upto) for upto, _ in found):
        parts = [(begin, len(upto)) for upto, begin in found]
        return [RenderedText(text, tuple(parts), turns)]
    return [
        RenderedText(upto, ((begin, len(upto)),), (turn,))
        for (upto, begin), turn in zip(found, turns, strict=True)
    ]


def _words(
    messages: Sequence[Message], place: int, conversation: Conversation, form: ChatFormat
) -> tuple[str, int]:
    """The text up to the end of a message, and where the words of the message begin."""
    upto = form.render(messages[: place + 1], conversation)
    header = answer_begin(messages[:place], conversation, form)
    if header is None or not upto.startswith(header):
        # The template begins an answer in another way than this message, for example that of a
        # parser with a role of its own, or it writes nothing without messages.
        message = {key: value for key, value in messages[place].items() if key != "tool_calls"}
        first, second = (
            form.render([*messages[:place], {**message, "content": probe}], conversation)
            for probe in _PROBES
        )
        pairs = enumerate(zip(first, second, strict=False))
        header = first[: next((n for n, (one, other) in pairs if one != other), 0)]
        if not upto.startswith(header):
            raise ValueError(
                f"the chat template of {form.tokenizer.path.parent} writes the header of a message "
                f"of {messages[place]['role']} differently for each content, so that it is not "
                "known what to train; mark it with {% generation %} in the template"
            )
    return upto, len(header)


def answer_begin(
    messages: Sequence[Message], conversation: Conversation, form: ChatFormat
) -> str | None:
    """The prompt for the next message of the assistant; None if the template refuses to write it.

    Templates refuse, for example, to write a conversation without messages.
    """
    try:
        return form.render(messages, conversation, begins_answer=True)
    except ValueError:
        return None


def _without_marks(marked: str) -> tuple[str, list[tuple[int, int]]]:
    """The text without marks, and the parts between them."""
    text, parts, begin = "", [], 0
    for piece in marked.split(BEGIN_MARK):
        inside, mark, rest = piece.partition(END_MARK)
        begin = len(text)
        text += inside + rest
        if mark:
            parts.append((begin, begin + len(inside)))
    return text, parts
