"""Answers without a model."""

import json

from mobilellm.data.conversations.calls import Call
from mobilellm.data.conversations.layouts import read_conversation
from mobilellm.data.conversations.turns import Turn
from mobilellm.evaluation.conversations.asked_turns import AskedTurn
from mobilellm.evaluation.conversations.baselines import (
    TrainingTurns,
    majority_answers,
    random_answers,
)


def row(*turns):
    """A conversation with these replies, and with these calls, which are (name, arguments)."""
    messages = [
        {"role": "assistant", "content": turn}
        if isinstance(turn, str)
        else {"role": "parser", "content": json.dumps({"name": turn[0], "arguments": turn[1]})}
        for turn in turns
    ]
    return read_conversation({"messages": messages}, "auto", "row")


TRAINING = TrainingTurns([
    row(("f", {"x": 1}), "yes"), row(("f", {"x": 2}), "no"), row(("f", {"x": 2}), "no"),
    row(("g", {}), "perhaps"), row(*[("h", {})] * 9),
])  # fmt: skip


def asked(role, tools=()):
    calls = (Call("f"),) if role == "parser" else ()
    return AskedTurn(
        dialogue=0, index=0, turn=Turn(role=role, text="", calls=calls), prompt=(1,), target=(2,),
        tools=tuple({"name": name} for name in tools),
    )  # fmt: skip


def calls(texts):
    return [json.loads(text) for text in texts]


def test_the_majority_is_the_most_frequent_of_what_is_offered():
    turns = [asked("parser", "gf"), asked("parser", "gn"), asked("parser", "n"), asked("parser")]
    assert calls(majority_answers(turns, TRAINING)) == [
        {"name": "f", "arguments": {"x": 2}}, {"name": "g", "arguments": {}},
        {"name": "n", "arguments": {}}, {"name": "h", "arguments": {}},
    ]  # fmt: skip
    assert majority_answers([asked("assistant")], TRAINING) == ["no"]


def test_random_answers_draw_from_what_is_offered_and_from_training():
    found = random_answers([asked("parser", "fgn")] * 300, TRAINING)
    assert found == random_answers([asked("parser", "fgn")] * 300, TRAINING)
    names = [call["name"] for call in calls(found)]
    # A third each; the standard deviation of 300 draws is 8.
    assert all(60 < names.count(name) < 140 for name in "fgn")
    given = [call["arguments"]["x"] for call in calls(found) if call["name"] == "f"]
    assert given.count(2) > given.count(1) > 0
    assert set(random_answers([asked("assistant")] * 50, TRAINING)) == {"yes", "no", "perhaps"}


def test_without_training_data_calls_have_no_arguments_and_replies_no_words():
    empty = TrainingTurns([])
    turns = [asked("parser", "f"), asked("assistant"), asked("parser")]
    expected = [Call("f").text(), "", ""]
    assert random_answers(turns, empty) == majority_answers(turns, empty) == expected
