"""What is wrong with calls, and the files of functions."""

import json

import pytest

from mobilellm.data.conversations.calls import Call
from mobilellm.inference.function_calls import check_call
from mobilellm.inference.functions import calls_schema, make_functions, read_functions

WEATHER = {
    "name": "get_weather",
    "description": "The weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
        "required": ["city"],
    },
}
FUNCTIONS = make_functions([WEATHER, {"name": "now"}])


def test_a_call_that_is_valid():
    assert check_call(Call("get_weather", {"city": "Rome"}), FUNCTIONS) is None


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (Call("weather"), "there is no function 'weather'; there are get_weather, now"),
        (Call("get_weather", {}), "arguments: 'city' is a required property"),
        (Call("get_weather", {"city": 3}), "arguments['city']: 3 is not of type 'string'"),
        (Call("get_weather", {"city": "x", "days": 0}), "arguments['days']: 0 is less than the m"),
        (Call("get_weather", {"city": "x", "more": 1}), "arguments: Additional properties are not"),
        (Call("get_weather", "Rome"), "arguments: 'Rome' is not of type 'object'"),
        (Call("now", {"zone": "UTC"}), "arguments: Additional properties are not allowed"),
    ],
)
def test_calls_that_are_not_valid(call, problem):
    given = check_call(call, FUNCTIONS)
    assert given is not None
    assert given.startswith(problem)


def test_a_schema_that_is_not_valid_is_an_error_of_its_file():
    functions = make_functions([{"name": "f", "parameters": {"properties": {"x": {"type": "no"}}}}])
    with pytest.raises(ValueError, match="parameters of function 'f' are not a valid JSON schema"):
        check_call(Call("f", {"x": 1}), functions)


def test_both_layouts_of_a_file(tmp_path):
    path = tmp_path / "functions.json"
    listed = [WEATHER, {"type": "function", "function": {"name": "now"}}]
    path.write_text(json.dumps(listed), encoding="utf-8")
    functions = read_functions(path)
    assert functions == FUNCTIONS
    # What is written for OpenAI is read again.
    tools = [{"type": "function", "function": one.definition} for one in functions]
    assert make_functions(tools) == functions
    one, two = calls_schema(functions)["anyOf"]
    assert calls_schema(functions[:1]) == one
    assert two["properties"]["name"] == {"const": "now"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("{}", "must contain a JSON list of at least one function"),
        ("[]", "must contain a JSON list of at least one function"),
        ("[3]", r"functions.json: function 0 has no name that is text; give \{"),
        ('[{"name": "a"}, {"name": "a"}]', "two functions are called 'a'"),
        ('[{"name": "a", "description": 3}]', "the description of function 'a' must be text"),
        (
            '[{"name": "a", "parameters": {"type": "array"}}]',
            'must be a JSON schema of the type "o',
        ),
        ('[{"name": "a", "parameters": {"properties": {"x": {"$ref": "#"}}}}]', r"contain \$ref"),
    ],
)
def test_files_that_are_refused(content, message, tmp_path):
    path = tmp_path / "functions.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_functions(path)
    with pytest.raises(FileNotFoundError, match=r"missing.json does not exist; give a JSON file"):
        read_functions(tmp_path / "missing.json")
