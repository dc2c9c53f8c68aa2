"""The turns of a conversation, whatever the layout that they were read from."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mobilellm.data.conversations.calls import Call

Role = Literal["system", "user", "assistant", "parser", "tool"]
TRAINED_ROLES: tuple[Role, Role] = ("assistant", "parser")
"""Roles whose turns a model learns to write: replies to the user, and function calls."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one role says."""

    role: Role
    text: str
    """All of the turn as text, function calls included."""
    calls: tuple[Call, ...] = ()
    """The function calls in a parser's turn; empty if its text cannot be read as calls."""
    said: str = ""
    """The part of a parser's text that is not a call."""

    @property
    def is_trained(self) -> bool:
        """Whether a model learns to write this turn."""
        return self.role in TRAINED_ROLES


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A conversation of at least one turn."""

    turns: tuple[Turn, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """The functions that may be called: each with `name`, and mostly `description` and
    `parameters`, a JSON schema."""
    prompt_turns: int = 0
    """Number of turns at the beginning that are given and never trained."""
    place: str = ""
    """Where it was read, for messages."""

    def trains(self, turn: int) -> bool:
        """Whether a model learns to write the turn with this index."""
        return turn >= self.prompt_turns and self.turns[turn].is_trained

    @property
    def functions(self) -> frozenset[str]:
        """Names of all functions that are offered or called."""
        offered = {tool["name"] for tool in self.tools}
        return frozenset(offered | {call.name for turn in self.turns for call in turn.calls})

    def record(self) -> dict[str, Any]:
        """The conversation as a row in the layout `messages`."""
        row: dict[str, Any] = {
            "messages": [{"role": turn.role, "content": turn.text} for turn in self.turns]
        }
        return row | ({"tools": [dict(tool) for tool in self.tools]} if self.tools else {})

    def key(self) -> bytes:
        """A hash of the contents, equal for copies of a conversation."""
        text = json.dumps(self.record(), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    def split_key(self) -> bytes:
        """A hash that is equal for conversations which must be in the same split.

        Those are copies, and answers to the same prompt.
        """
        if not self.prompt_turns:
            return self.key()
        return replace(self, turns=self.turns[: self.prompt_turns], prompt_turns=0).key()
