"""How conversations are given to a chat template: names of roles, functions, and calls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mobilellm.data.conversations.turns import Conversation, Turn
from mobilellm.data.tokenizers import Tokenizer
from mobilellm.strict_json import to_json

ToolFormat = Literal["auto", "template", "text"]

TOOLS_BEGIN = (
    "You may call these functions. To call one, answer with nothing but a JSON object with the "
    'keys "name" and "arguments".'
)
"""What stands before the list of functions in the system message, if the template offers none."""


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """The protocol between conversations and the chat template of a tokenizer.

    Raises:
        ValueError: the tokenizer has no chat template, or the template cannot offer functions and
            `tools` says that it does.
    """

    tokenizer: Tokenizer
    parser_role: str = "assistant"
    """Role under which the template writes function calls."""
    tool_role: str = "tool"
    """Role under which the template writes the results of functions."""
    tools: ToolFormat = "auto"
    """Whether functions and calls are written by the template in its own way, or as text; `auto`:
    by the template if it knows both `tools` and `tool_calls`."""

    def __post_init__(self) -> None:
        """Check that there is a template for what is asked for."""
        template = self.tokenizer.settings.template
        if template is None:
            self.tokenizer.settings.required_template(self.tokenizer.path)
        if self.tools == "template" and not self._knows_tools:
            raise ValueError(
                f"data.tools=template, but the chat template of {self.tokenizer.path.parent} does "
                "not use both tools and tool_calls; use data.tools=auto or text"
            )

    @property
    def template_writes_tools(self) -> bool:
        """Whether the template writes functions and calls in its own way."""
        return self.tools != "text" and self._knows_tools

    @property
    def _knows_tools(self) -> bool:
        template = self.tokenizer.settings.template or ""
        return "tool_calls" in template and self.tokenizer.writes_tools

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        conversation: Conversation,
        *,
        begins_answer: bool = False,
        keep_marks: bool = False,
    ) -> str:
        """Write messages as text, and offer the functions of their conversation.

        Args:
            messages: the first of those that `messages` returns, or others.
            conversation: the functions are its `tools`.
            begins_answer: whether to begin the assistant's next message.
            keep_marks: see `mobilellm.data.tokenizers.chat_template.render`.

        Raises:
            ValueError: the template refuses the messages.
        """
        offered = [{"type": "function", "function": dict(tool)} for tool in conversation.tools]
        return self.tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=begins_answer,
            tools=offered if offered and self.template_writes_tools else None,
            keep_marks=keep_marks,
        )

    def messages(self, conversation: Conversation) -> list[tuple[dict[str, Any], int | None]]:
        """The messages for the template, each with the index of its turn.

        A message that lists the functions for a template that cannot has None.
        """
        found: list[tuple[dict[str, Any], int | None]] = [
            (self._message(turn), index) for index, turn in enumerate(conversation.turns)
        ]
        if not conversation.tools or self.template_writes_tools:
            return found
        listed = tools_text(conversation.tools)
        first, index = found[0]
        if conversation.turns[0].role == "system":
            return [({**first, "content": f"{first['content']}\n\n{listed}"}, index), *found[1:]]
        return [({"role": "system", "content": listed}, None), *found]

    def _message(self, turn: Turn) -> dict[str, Any]:
        if turn.role == "tool":
            return {"role": self.tool_role, "content": turn.text}
        if turn.role != "parser":
            return {"role": turn.role, "content": turn.text}
        if turn.calls and self.template_writes_tools:
            calls = [
                {
                    "type": "function",
                    "function": {"name": call.name, "arguments": dict(call.arguments)},
                }
                for call in turn.calls
            ]
            said = turn.said
            return {"role": self.parser_role, "content": said, "tool_calls": calls}
        return {"role": self.parser_role, "content": turn.text}


def tools_text(tools: Sequence[Mapping[str, Any]]) -> str:
    """The list of functions for the system message, one JSON object a line."""
    lines = (to_json(tool, indent=None, ensure_ascii=False) for tool in tools)
    return "\n".join([TOOLS_BEGIN, *lines])
