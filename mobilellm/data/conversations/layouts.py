"""The usual layouts of conversations in rows of a dataset.

- `messages`: a list under `messages` (or `conversations`) of objects with `role` and `content`, and
  with `tool_calls` or `function_call` for function calls;
- `sharegpt`: a list under `conversations` of objects with `from` and `value`;
- `alpaca`: `instruction`, `input` (may be missing or empty) and `output`;
- `prompt_completion`: `prompt` and `completion`, both text, or both lists of messages.

A row may also have `tools` (or `functions`), a list or its JSON, and `system`, a text.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from mobilellm.data.conversations.calls import find_calls, read_call
from mobilellm.data.conversations.turns import Conversation, Role, Turn
from mobilellm.data.source import encode_text

Layout = Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion"]
LAYOUTS: tuple[str, ...] = get_args(Layout)

_ROLES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant",
    "parser": "parser", "function_call": "parser", "tool_call": "parser",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool",
    "tool_response": "tool",
}  # fmt: skip
_CALL_FIELDS = ("tool_calls", "function_call")
_LISTS = {"messages": ("messages", "conversations"), "sharegpt": ("conversations",)}


def read_conversation(row: Mapping[str, Any], layout: str, place: str) -> Conversation:
    """Read a conversation from a row.

    Args:
        row: its fields; None counts as missing.
        layout: one of `LAYOUTS`; `auto` recognises it by the names of the columns.
        place: where the row is, for messages.

    Raises:
        ValueError: the layout is not recognised, a field is missing or has the wrong type, a role
            is not known, or there is no turn.
    """
    row = {name: value for name, value in row.items() if value is not None}
    layout = _recognised(row, place) if layout == "auto" else layout
    if layout == "alpaca":
        request = _text(row, "instruction", place)
        added = _text(row, "input", place) if row.get("input") else ""
        turns = [
            Turn(role="user", text=f"{request}\n\n{added}" if added else request),
            Turn(role="assistant", text=_text(row, "output", place)),
        ]
    elif layout == "prompt_completion":
        turns = [
            *read_part(row, "prompt", "user", place),
            *read_part(row, "completion", "assistant", place),
        ]
    else:
        column = next((name for name in _LISTS[layout] if name in row), _LISTS[layout][0])
        turns = _turns(_value(row, column, place), column, place)
    if "system" in row and (not turns or turns[0].role != "system"):
        system = _text(row, "system", place)
        turns = [*([Turn(role="system", text=system)] if system else []), *turns]
    if not turns:
        raise ValueError(f"{place} is a conversation without turns; remove the row")
    return Conversation(turns=tuple(turns), tools=read_tools(row, place), place=place)


def _recognised(row: Mapping[str, Any], place: str) -> str:
    for column in ("messages", "conversations"):
        if isinstance(row.get(column), Sequence):
            first = next((one for one in row[column] if isinstance(one, Mapping)), {})
            return "sharegpt" if "from" in first and column == "conversations" else "messages"
    if "instruction" in row and "output" in row:
        return "alpaca"
    if "prompt" in row and "completion" in row:
        return "prompt_completion"
    if "chosen" in row and "rejected" in row:
        raise ValueError(
            f"{place} has the columns chosen and rejected, which are those of preferences; use "
            "data=preferences distillation=dpo"
        )
    raise ValueError(
        f"{place} has the columns {', '.join(row) or '(none)'}, which are not those of a known "
        "layout: messages; conversations; instruction and output; or prompt and completion. Rename "
        "the columns, or set data.layout"
    )


def read_part(row: Mapping[str, Any], name: str, role: Role, place: str) -> list[Turn]:
    """The turns in a column: text of one role, or a list of messages.

    Raises:
        ValueError: the column is missing, or has something else.
    """
    value = _value(row, name, place)
    if isinstance(value, str):
        return [Turn(role=role, text=_text(row, name, place))]
    return _turns(value, name, place)


def _turns(messages: Any, column: str, place: str) -> list[Turn]:
    if not isinstance(messages, list | tuple):
        raise ValueError(
            f"{place} holds {type(messages).__name__} in column {column!r}, which must be a list "
            "of messages; set data.layout, or correct the row"
        )
    return [_turn(message, f"{place}, message {n}") for n, message in enumerate(messages, start=1)]


def _turn(message: Any, place: str) -> Turn:
    if not isinstance(message, Mapping):
        raise ValueError(f"{place} is no object with role and content; correct or remove the row")
    message = {name: value for name, value in message.items() if value is not None}
    given = message.get("role", message.get("from"))
    role = _ROLES.get(given) if isinstance(given, str) else None
    if role is None:
        raise ValueError(
            f"{place} has the role {given!r}, which must be one of {', '.join(_ROLES)}; rename it"
        )
    said = _content(message, place)
    calls = _given_calls(message, place)
    if calls:
        text = "\n".join([*([said] if said else []), *(call.text() for call in calls)])
        return Turn(role="parser", text=text, calls=calls, said=said)
    if role == "parser":
        calls = tuple(find_calls(said))
        is_valid = all(isinstance(call.arguments, Mapping) for call in calls)
        return Turn(role="parser", text=said, calls=calls if is_valid else ())
    return Turn(role=role, text=said)


def _given_calls(message: Mapping[str, Any], place: str) -> tuple[Any, ...]:
    """The calls that a message lists beside its content."""
    field = next((name for name in _CALL_FIELDS if message.get(name)), None)
    if field is None:
        return ()
    values = message[field]
    values = values if isinstance(values, list | tuple) else [values]
    calls = tuple(read_call(value) for value in values)
    if not all(call is not None and isinstance(call.arguments, Mapping) for call in calls):
        raise ValueError(
            f"{place} has a call in {field} without name and arguments; correct or remove the row"
        )
    return calls


def _content(message: Mapping[str, Any], place: str) -> str:
    """The text of a message, which may be given in parts."""
    value = message.get("content", message.get("value"))
    if value is None:
        if any(message.get(name) for name in _CALL_FIELDS):
            return ""
        raise ValueError(f"{place} has neither content nor value; correct or remove the row")
    if isinstance(value, list | tuple):
        given = [part.get("text") if isinstance(part, Mapping) else part for part in value]
        parts = [part for part in given if isinstance(part, str)]
        if len(parts) < len(given):
            raise ValueError(
                f"{place} has a part that is not text, such as an image; remove the row"
            )
        value = "".join(parts)
    if not isinstance(value, str):
        raise ValueError(
            f"{place} holds {type(value).__name__} as content, which must be text; correct the row"
        )
    encode_text(value, place)
    return value


def read_tools(row: Mapping[str, Any], place: str) -> tuple[Mapping[str, Any], ...]:
    """The functions that may be called, each as an object with `name`.

    Raises:
        ValueError: they are not JSON, or have no name.
    """
    column = "tools" if "tools" in row else "functions"
    given = row.get(column)
    if isinstance(given, str):
        try:
            given = json.loads(given) if given.strip() else []
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place} has {column} that are not JSON ({error})") from None
    given = [given] if isinstance(given, Mapping) else given or []
    tools = [
        one["function"] if isinstance(one, Mapping) and "function" in one else one for one in given
    ]
    for tool in tools:
        if not isinstance(tool, Mapping) or not isinstance(tool.get("name"), str):
            raise ValueError(
                f"{place} has a function without a name in {column}; correct or remove the row"
            )
    return tuple(tools)


def _value(row: Mapping[str, Any], name: str, place: str) -> Any:
    if name not in row:
        raise ValueError(
            f"{place} has no column {name!r}; set data.layout to one of {', '.join(LAYOUTS)}, or "
            "correct the row"
        )
    return row[name]


def _text(row: Mapping[str, Any], name: str, place: str) -> str:
    value = _value(row, name, place)
    if not isinstance(value, str):
        raise ValueError(
            f"{place} holds {type(value).__name__} in column {name!r}, which must be text; correct "
            "the row"
        )
    encode_text(value, place)
    return value
