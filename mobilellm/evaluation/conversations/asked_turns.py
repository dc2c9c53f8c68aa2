"""The turns of conversations that a model is asked to write, as tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm.data.conversations.chat_format import ChatFormat
from mobilellm.data.conversations.tokens import tokenize_conversation
from mobilellm.data.conversations.turns import Conversation, Turn


@dataclass(frozen=True, kw_only=True)
class AskedTurn:
    """A turn of the assistant or of the parser, and all that stands before it."""

    dialogue: int
    """Index of the conversation."""
    index: int
    """Index of the turn in the conversation."""
    turn: Turn
    """What the conversation has."""
    tools: tuple[Mapping[str, Any], ...]
    """The functions that the conversation offers."""
    prompt: tuple[int, ...]
    """Tokens before the turn, with its header."""
    target: tuple[int, ...]
    """Tokens of the turn, with the one that ends it: those that are trained."""

    @property
    def calls_functions(self) -> bool:
        """Whether the turn is a function call that can be compared with another."""
        return bool(self.turn.calls)

    @property
    def is_reply(self) -> bool:
        """Whether the turn is text for the user."""
        return self.turn.role == "assistant"


def asked_turns(conversations: Sequence[Conversation], form: ChatFormat) -> list[AskedTurn]:
    """The turns that training would train, each after the turns before it as they are in the data.

    Raises:
        ValueError: see `tokenize_conversation`.
    """
    found = []
    for number, conversation in enumerate(conversations):
        for sequence in tokenize_conversation(conversation, form):
            tokens = sequence.tokens.tolist()
            bounds = zip(sequence.begins, sequence.ends, sequence.turns, strict=True)
            for begin, end, turn in bounds:
                # As in training, the first token of all is not predicted.
                first = max(begin, 1)
                found.append(
                    AskedTurn(
                        dialogue=number,
                        index=turn,
                        turn=conversation.turns[turn],
                        tools=conversation.tools,
                        prompt=tuple(tokens[:first]),
                        target=tuple(tokens[first:end]),
                    )
                )
    return [turn for turn in found if turn.target]


def fitting_turns(turns: Sequence[AskedTurn], context: int, new_tokens: int) -> list[AskedTurn]:
    """The turns whose prompts leave room for themselves and for an answer.

    Args:
        turns: all of them.
        context: the most tokens that the model reads.
        new_tokens: the most tokens of an answer.
    """
    return [
        turn for turn in turns if len(turn.prompt) + max(new_tokens, len(turn.target)) <= context
    ]
