"""Functions that a model may call: their file, their description, and the schema of calls."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LAYOUT = 'give {"name": …, "description": …, "parameters": JSON schema}'


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function that a model may call."""

    name: str
    definition: Mapping[str, Any]
    """The function as it was given, with `name` and mostly `description` and `parameters`: what a
    model reads."""
    parameters: Mapping[str, Any]
    """JSON schema of the arguments, an object; other arguments than it names are not allowed,
    unless it has `additionalProperties`."""

    def call_schema(self) -> dict[str, Any]:
        """JSON schema of a call of this function, `{"name": …, "arguments": {…}}`."""
        return {
            "type": "object",
            "properties": {"name": {"const": self.name}, "arguments": dict(self.parameters)},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }


def read_functions(path: Path) -> tuple[Function, ...]:
    """Read a JSON file with a list of functions.

    Args:
        path: each element is `{"name", "description", "parameters"}`, or such an object as
            `function` of an object with `"type": "function"`, as in OpenAI's list of tools.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it does not contain such a list, or two functions have the same name.
    """
    values = read_json_file(path)
    if not isinstance(values, list) or not values:
        raise ValueError(f"{path} must contain a JSON list of at least one function; {_LAYOUT}")
    try:
        return make_functions(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def make_functions(values: Sequence[Any]) -> tuple[Function, ...]:
    """Make functions of plain data, in the layout of `read_functions`.

    Raises:
        ValueError: a value is not a function, or two functions have the same name.
    """
    functions = tuple(_function(value, index) for index, value in enumerate(values))
    names = [function.name for function in functions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two functions are called {twice!r}; give each a name of its own")
    return functions


def read_json_file(path: Path) -> Any:
    """Read a JSON file that a user gives.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"file {path} does not exist; give a JSON file")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); correct the file") from None


def calls_schema(functions: Sequence[Function]) -> dict[str, Any]:
    """JSON schema of one call of any of the functions, `{"name": …, "arguments": {…}}`."""
    calls = [function.call_schema() for function in functions]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def _function(value: Any, index: int) -> Function:
    inner = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise ValueError(f"function {index} has no name that is text; {_LAYOUT}")
    name = inner["name"]
    description, parameters = inner.get("description") or "", inner.get("parameters") or {}
    if not isinstance(description, str):
        raise ValueError(f"the description of function {name!r} must be text")
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise ValueError(
            f'the parameters of function {name!r} must be a JSON schema of the type "object"'
        )
    if any("$ref" in one for one in _objects(parameters)):
        raise ValueError(
            f"the parameters of function {name!r} contain $ref; write the schema out in its place"
        )
    schema = {"type": "object", "properties": {}, "additionalProperties": False, **parameters}
    return Function(name=name, definition=dict(inner), parameters=schema)


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """All objects in plain data, at any depth."""
    if isinstance(value, Mapping):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _objects(item)
