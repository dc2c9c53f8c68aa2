"""Function calls in text: as JSON objects, or as in Python, `name(argument="value")`."""

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm.strict_json import to_json

_NAMES_OF_ARGUMENTS = ("arguments", "parameters")


@dataclass(frozen=True)
class Call:
    """A call of a function."""

    name: str
    arguments: Mapping[str, Any]

    def text(self) -> str:
        """The call as a JSON object in one line."""
        values = {"name": self.name, "arguments": self.arguments}
        return to_json(values, indent=None, ensure_ascii=False)


def read_call(value: Any) -> Call | None:
    """The call that an object describes; None if it describes none.

    Args:
        value: an object with `name`, and with `arguments` or `parameters`, which may be the text of
            a JSON object; or such an object under `function`, as in OpenAI's `tool_calls`.
    """
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = value["function"]
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        return None
    key = next((key for key in _NAMES_OF_ARGUMENTS if key in value), None)
    arguments = value.get(key) if key else None
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    # A definition of a function has `parameters` too: a JSON schema.
    is_schema = key == "parameters" and isinstance(arguments, Mapping) and "properties" in arguments
    if not isinstance(arguments, Mapping) or is_schema:
        return None
    return Call(value["name"], dict(arguments))


def find_calls(text: str) -> tuple[Call, ...]:
    """All function calls in a text, in order.

    JSON objects may stand anywhere in the text, also in lists, and between marks such as
    `<tool_call>`. Calls as in Python must be the whole text.
    """
    found = tuple(
        call
        for value in _json_values(text)
        for each in (value if isinstance(value, list) else [value])
        if (call := read_call(each)) is not None
    )
    return found or _python_calls(text)


def same_calls(first: Sequence[Call], second: Sequence[Call]) -> bool:
    """Whether two lists have the same calls; neither calls nor arguments have an order."""
    rest = list(second)
    for call in first:
        if call not in rest:
            return False
        rest.remove(call)
    return not rest


def is_valid_call(call: Call, tools: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a function is offered under this name, and takes arguments of these names.

    Args:
        call: its name must be that of a tool, its arguments must be properties of the tool's
            parameters, and those that the tool requires must be given. Values are not checked.
        tools: the functions that may be called.
    """
    tool = next((tool for tool in tools if tool["name"] == call.name), None)
    if tool is None:
        return False
    schema = tool.get("parameters")
    if not isinstance(schema, Mapping):
        return True
    known, required = schema.get("properties") or {}, schema.get("required") or []
    return set(required) <= set(call.arguments) <= set(known)


def _json_values(text: str) -> Iterator[Any]:
    """All JSON objects and lists in a text, outermost first, without those inside others."""
    decoder, position = json.JSONDecoder(), 0
    while position < len(text):
        if text[position] in "{[":
            try:
                value, position = decoder.raw_decode(text, position)
                yield value
                continue
            except (ValueError, RecursionError):
                pass
        position += 1


def _python_calls(text: str) -> tuple[Call, ...]:
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    nodes = node.elts if isinstance(node, ast.List | ast.Tuple) else [node]
    calls = [_python_call(each) for each in nodes]
    return tuple(call for call in calls if call is not None) if None not in calls else ()


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
