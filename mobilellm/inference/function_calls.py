"""Recognises the calls of functions in an answer, and checks them against their schemas."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mobilellm.inference.functions import Function
from mobilellm.strict_json import to_json

# Models of the Llama family write the name outside: `<function=NAME>{…}</function>`.
_NAMED_CALL = re.compile(r"<function=(?P<name>[^<>]+)>(?P<arguments>.*?)</function>", re.DOTALL)
_TAG = re.compile(r"<(tool_call|function_?call)>|\[TOOL_CALLS\]|<\|python_tag\|>")
_ARGUMENTS = ("arguments", "parameters", "args")


@dataclass(frozen=True)
class Call:
    """A call of a function in an answer."""

    name: str
    arguments: Any = field(default_factory=dict)
    """An object in a valid call; any other JSON value if the model wrote that."""

    def __str__(self) -> str:
        """The call as JSON with the name before it: `get_weather {"city": "Rome"}`."""
        return f"{self.name} {to_json(self.arguments, indent=None, ensure_ascii=False)}"


def find_calls(answer: str) -> list[Call]:
    """The calls in an answer, in their order.

    A call is an object with `name` and `arguments` (or `parameters`), alone, in a list, in
    `tool_calls`, or as `function` of an object, and may stand in the text, in a block of code, or
    in tags such as `<tool_call>…</tool_call>` and `[TOOL_CALLS]`. Arguments may be an object or its
    JSON text. `<function=NAME>{…}</function>` is a call too.
    """
    found: list[Call] = []
    rest = answer
    while (match := _NAMED_CALL.search(rest)) is not None:
        found += _calls_in_json(rest[: match.start()])
        found.append(Call(match["name"].strip(), _decoded(match["arguments"])))
        rest = rest[match.end() :]
    return found + _calls_in_json(rest)


def has_call_mark(answer: str) -> bool:
    """Whether an answer contains the begin of a call, which may not be valid JSON."""
    return _TAG.search(answer) is not None


def check_call(call: Call, functions: Sequence[Function]) -> str | None:
    """Say what is wrong with a call.

    Args:
        call: from `find_calls`.
        functions: those that may be called.

    Returns:
        None if the call is valid.

    Raises:
        ValueError: a function's parameters are not a valid JSON schema.
        ImportError: the package jsonschema is not installed.
    """
    from jsonschema import Draft202012Validator, exceptions

    known = {function.name: function for function in functions}
    if call.name not in known:
        return f"there is no function {call.name!r}; there are {', '.join(known)}"
    validator = Draft202012Validator(known[call.name].parameters)
    try:
        error = exceptions.best_match(validator.iter_errors(call.arguments))
    except Exception as fault:  # of a type or keyword that the schema misuses
        raise ValueError(
            f"the parameters of function {call.name!r} are not a valid JSON schema ({fault}); "
            "correct them"
        ) from None
    if error is None:
        return None
    place = "".join(f"[{part!r}]" for part in error.absolute_path)
    return f"arguments{place}: {error.message}"


def _calls_in_json(text: str) -> list[Call]:
    return [call for value in _json_values(text) for call in _calls_of(value)]


def _json_values(text: str) -> Iterator[Any]:
    """The JSON objects and lists in a text, without those inside others."""
    decoder, place = json.JSONDecoder(), 0
    while (match := re.compile(r"[{\[]").search(text, place)) is not None:
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
    if not isinstance(value, Mapping):
        return
    name, key = value.get("name"), next((key for key in _ARGUMENTS if key in value), None)
    if isinstance(name, str) and key is not None:
        yield Call(name, _decoded(value[key]))
    elif isinstance(value.get("function"), Mapping):
        yield from _calls_of(value["function"])
    elif isinstance(value.get("tool_calls"), list):
        yield from _calls_of(value["tool_calls"])


def _decoded(arguments: Any) -> Any:
    """Arguments that are given as JSON text, as OpenAI does; others unchanged."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
