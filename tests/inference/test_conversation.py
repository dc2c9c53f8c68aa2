"""Conversations as tokens: what the template gets, and which turns are dropped."""

from itertools import chain

import pytest
from chat_models import CHATML, chat_config, chat_tokenizer

from mobilellm.data.conversations.calls import Call
from mobilellm.data.conversations.chat_format import ChatFormat
from mobilellm.data.conversations.layouts import read_conversation
from mobilellm.data.conversations.tokens import tokenize_conversation
from mobilellm.inference.conversation import PromptWriter
from mobilellm.inference.functions import make_functions
from mobilellm.inference.prompts import tokens_of_text

FUNCTIONS = make_functions([{"name": "time_in", "description": "The time in a city."}])
SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
    [{"role": "user", "content": f"the fox {number}"}, {"role": "assistant", "content": "a dog"}]
    for number in range(5)
]
TURNS[1].insert(1, {"role": "tool", "name": "time_in", "content": "noon"})
QUESTION = {"role": "user", "content": "again"}
# Writes functions, and calls in its own way.
CALLS = "(m.tool_calls[0].function | tojson if m.tool_calls else m.content)"
TOOLS = "{% for t in tools or [] %}{{ t.function.name }} {% endfor %}" + CHATML.replace(
    "m.content", CALLS
)


def writer(folder, context, template=CHATML, functions=()):
    return PromptWriter(chat_config(context), chat_tokenizer(folder, template), functions)


@pytest.mark.parametrize("system", [[], [SYSTEM]])
@pytest.mark.parametrize("max_new_tokens", [1, 40, 1000])
def test_the_oldest_whole_turns_are_dropped(system, max_new_tokens, tmp_path):
    for context in range(60, 300, 20):
        one = writer(tmp_path, context)
        messages = [*system, *chain(*TURNS), QUESTION]
        kept, tokens, dropped = one.fitting(messages, max_new_tokens)
        # The fewest that make room, tried one after the other.
        room = min(max_new_tokens, context // 2)
        for expected in range(6):
            rest = [*system, *chain(*TURNS[expected:]), QUESTION]
            if len(one.tokens(rest)) + room <= context:
                break
        assert (kept, dropped) == (rest, expected)
        assert tokens == one.tokens(rest)


def test_the_last_turn_and_the_system_stay_although_little_room_is_left(tmp_path):
    question = {"role": "user", "content": "x" * 50}
    one = writer(tmp_path, 150)
    kept, tokens, dropped = one.fitting([SYSTEM, *TURNS[0], question], 100)
    assert (kept, dropped) == ([SYSTEM, question], 1)
    assert 75 < len(tokens) < 150
    size = len(tokens)
    assert writer(tmp_path, size + 1).fitting([SYSTEM, *TURNS[0], question], 100)[2] == 1
    with pytest.raises(ValueError, match=f"makes a prompt of {size} tokens, which leaves no room"):
        writer(tmp_path, size).fitting([SYSTEM, *TURNS[0], question], 100)


def test_a_model_without_a_template_continues_the_joined_text(tmp_path):
    one = writer(tmp_path, 64, template=None)
    assert one.is_plain
    messages = [{"role": "user", "content": "the quick"}, {"role": "assistant", "content": " fox"}]
    expected = tokens_of_text(chat_config(), chat_tokenizer(tmp_path, None), "the quick fox")
    assert one.tokens(messages) == expected
    with pytest.raises(ValueError, match="has no chat template, so that functions cannot be desc"):
        writer(tmp_path, 64, template=None, functions=FUNCTIONS)


def test_functions_are_given_to_a_template_that_writes_them(tmp_path):
    one = writer(tmp_path, 64, TOOLS, FUNCTIONS)
    tokenizer = chat_tokenizer(tmp_path, CHATML)
    plain = writer(tmp_path, 64).tokens([QUESTION])
    assert one.tokens([QUESTION]) == [*tokenizer.encode("time_in "), *plain]


@pytest.mark.parametrize("template", [CHATML, TOOLS])
@pytest.mark.parametrize("system", [[], [SYSTEM]])
def test_a_conversation_is_written_as_in_training(system, template, tmp_path):
    call = Call("time_in", {"city": "Rome"}).text()
    messages = [
        *system, QUESTION, {"role": "assistant", "content": call},
        {"role": "tool", "name": "time_in", "content": "noon"},
    ]  # fmt: skip
    row = {
        "messages": [*messages, {"role": "assistant", "content": "It is noon."}],
        "tools": [FUNCTIONS[0].definition],
    }
    row["messages"][-3] = {"role": "parser", "content": call}
    form = ChatFormat(tokenizer=chat_tokenizer(tmp_path, template))
    (trained,) = tokenize_conversation(read_conversation(row, "auto", "row"), form)
    for end, begin in zip((len(messages) - 2, len(messages)), trained.begins, strict=True):
        prompt = writer(tmp_path, 2000, template, FUNCTIONS).tokens(messages[:end])
        assert prompt == trained.tokens[:begin].tolist()


def test_text_that_is_not_utf8_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        writer(tmp_path, 64).tokens([{"role": "user", "content": "a\udcff"}])
