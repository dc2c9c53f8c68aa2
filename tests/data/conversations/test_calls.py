"""Function calls in the spellings of several families of models."""

import json

import pytest

from mobilellm.data.conversations.calls import Call, find_calls, has_call_mark

ROME = Call("get_weather", {"city": "Rome"})
JSON = '{"name": "get_weather", "arguments": {"city": "Rome"}}'


@pytest.mark.parametrize(
    "text",
    [
        JSON,
        f"<tool_call>\n{JSON}\n</tool_call>",  # Qwen, Hermes, SmolLM
        f"[{JSON}]",
        f"[TOOL_CALLS] [{JSON}]",  # Mistral
        '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Rome"}}',  # Llama 3
        '<function=get_weather>{"city": "Rome"}</function>',  # Llama 3.2
        f"I look it up.\n```json\n{json.dumps(json.loads(JSON), indent=2)}\n```\nWait {{please}}.",
        json.dumps(  # the message of an API
            {
                "tool_calls": [
                    {
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'},
                    }
                ]
            }
        ),
        f"<functioncall>{JSON}",  # not closed
        "get_weather(city='Rome')",
        '[get_weather(city="Rome")]',
        f"{{ [ {JSON}",  # brackets before it that are no JSON
    ],
)
def test_spellings_of_one_call(text):
    assert find_calls(text) == [ROME]


def test_several_calls_are_found_in_their_order():
    now = '{"name": "now", "arguments": {}}'
    text = (
        f"{now} then <function=get_weather>{{}}</function> and <tool_call>{JSON}</tool_call>{now}"
    )
    names = [call.name for call in find_calls(text)]
    assert names == ["now", "get_weather", "get_weather", "now"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Rome is sunny.",
        "[1, 2]",
        "print('Rome')",
        "get_weather(Rome)",
        json.dumps({"name": "f", "parameters": {"type": "object", "properties": {}}}),
        '{"name": "get_weather"}',
        '{"name": 3, "arguments": {}}',
        '<tool_call>{"name": "get_weather", "arguments": {"city": </tool_call>',
        "[" * 2000,
    ],
)
def test_no_call(text):
    assert find_calls(text) == []
    assert has_call_mark(text) == ("<tool_call>" in text)


def test_a_call_as_text():
    call = Call("f", {"city": "Köln"})
    assert str(call) == 'f {"city": "Köln"}'
    assert find_calls(call.text()) == [call]
