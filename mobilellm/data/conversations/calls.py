"""Function calls in text, in the spellings of several families of models."""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mobilellm.strict_json import to_json

# Models of the Llama family write the name outside: `<function=NAME>{…}</function>`.
_NAMED_CALL = re.compile(r"<function=(?P<name>[^<>]+)>(?P<arguments>.*?)</function>", re.DOTALL)
_MARK = re.compile(r"<(tool_call|function_?call)>|\[TOOL_CALLS\]|<\|python_tag\|>")
_BRACKET = re.compile(r"[{\[]")
_NAMES_OF_ARGUMENTS = ("arguments", "parameters", "args")


@dataclass(frozen=True)
class Call:
    """A call of a function."""

    name: str
    arguments: Any = field(default_factory=dict)
    """An object in a valid call; any other JSON value if the text has that."""

    def text(self) -> str:
        """The call as a JSON object in one line."""
        values = {"name": self.name, "arguments": self.arguments}
        return to_json(values, indent=None, ensure_ascii=False)

    def __str__(self) -> str:
        """The arguments as JSON with the name before them: `get_weather {"city": "Rome"}`."""
        return f"{self.name} {to_json(self.arguments, indent=None, ensure_ascii=False)}"


def find_calls(text: str) -> list[Call]:
    """The calls in a text, in their order.

    A call is an object as `read_call` reads it, alone, in a list, or in `tool_calls`, and may stand
    in the text, in a block of code, or in marks such as `<tool_call>…</tool_call>` and
    `[TOOL_CALLS]`. `<function=NAME>{…}</function>` is a call too. Calls as in Python,
    `name(argument="value")`, must be the whole text.
    """
    found: list[Call] = []
    rest = text
    while (match := _NAMED_CALL.search(rest)) is not None:
        found += _calls_in_json(rest[: match.start()])
        found.append(Call(match["name"].strip(), _decoded(match["arguments"])))
        rest = rest[match.end() :]
    return found + _calls_in_json(rest) or _python_calls(text)


def read_call(value: Any) -> Call | None:
    """The call that an object describes; None if it describes none.

    Args:
        value: an object with `name`, and with `arguments`, `parameters` or `args`, which may be the
            text of a JSON object; or such an object under `function`, as in OpenAI's `tool_calls`.
    """
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = value["function"]
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        return None
    key = next((key for key in _NAMES_OF_ARGUMENTS if key in value), None)
    if key is None:
        return None
    arguments = _decoded(value[key])
    # The definition of a function has `parameters` too: a JSON schema.
    is_schema = key == "parameters" and isinstance(arguments, Mapping) and "properties" in arguments
    return None if is_schema else Call(value["name"], arguments)


def has_call_mark(text: str) -> bool:
    """Whether a text has the mark that begins a call, although what follows may not be JSON."""
    return _MARK.search(text) is not None


def _calls_in_json(text: str) -> list[Call]:
    return [call for value in _json_values(text) for call in _calls_of(value)]


def _json_values(text: str) -> Iterator[Any]:
    """The JSON objects and lists in a text, without those inside others."""
    decoder, place = json.JSONDecoder(), 0
    while (match := _BRACKET.search(text, place)) is not None:
        try:
            value, place = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            place = match.end()
            continue
        yield value


def _calls_of(value: Any) -> Iterator[Call]:
    if isinstance(value, list):
        for item in value:
            yield from _calls_of(item)
    elif (call := read_call(value)) is not None:
        yield call
    elif isinstance(value, Mapping) and isinstance(value.get("tool_calls"), list):
        yield from _calls_of(value["tool_calls"])


def _decoded(arguments: Any) -> Any:
    """Arguments that are given as JSON text, as OpenAI does; others unchanged."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def _python_calls(text: str) -> list[Call]:
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    nodes = node.elts if isinstance(node, ast.List | ast.Tuple) else [node]
    calls = [_python_call(each) for each in nodes]
    return [call for call in calls if call is not None] if None not in calls else []


def _python_call(node: ast.expr) -> Call | None:
    """A call with named arguments only; None for anything else."""
    if not isinstance(node, ast.Call) or node.args:
        return None
    if any(keyword.arg is None for keyword in node.keywords):
        return None
    try:
        values = {str(one.arg): ast.literal_eval(one.value) for one in node.keywords}
    except (ValueError, SyntaxError):
        return None
    return Call(ast.unparse(node.func), values)
