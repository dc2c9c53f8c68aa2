"""Which calls count as the same."""

import itertools
import json

import pytest

from mobilellm.data.conversations.calls import Call
from mobilellm.evaluation.conversations.call_matching import are_equal, calls_in, have_equal_names

ARGUMENTS = [
    {}, {"a": 1}, {"a": True}, {"a": "1"}, {"a": None}, {"a": [1, 2]}, {"a": [2, 1]},
    {"a": {"b": 1, "c": [{}]}}, {"a": 1, "b": 2}, [1], "x", 0, False, None,
]  # fmt: skip


def test_arguments_are_equal_only_if_their_json_is():
    """JSON with sorted keys tells all of them apart, as it does true and 1."""
    for first, second in itertools.product(ARGUMENTS, repeat=2):
        expected = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
        assert are_equal([Call("f", first)], [Call("f", second)]) == expected, (first, second)


def test_order_and_spelling_do_not_count():
    first = [Call("f", {"a": 1, "b": {"c": 2, "d": 0.5}}), Call("g", {})]
    second = [Call("g", {}), Call("f", {"b": {"d": 0.5, "c": 2.0}, "a": 1})]
    assert are_equal(first, second) and have_equal_names(first, second)
    assert not are_equal(first, second[:1])
    assert not have_equal_names(first, [*second, second[0]])
    assert have_equal_names(first, [Call("f"), Call("g")])
    assert not are_equal(first, [Call("f"), Call("g")])


@pytest.mark.parametrize(
    ("answer", "calls"),
    [
        ('{"name": "f", "arguments": {"a": 1}}', [Call("f", {"a": 1})]),
        ("f(a=(1, 2))", [Call("f", {"a": [1, 2]})]),
        ("f(a={1, 2})", []),
        ("f(a=b'x')", []),
        ("Of course!", []),
    ],
)
def test_calls_have_json_values(answer, calls):
    assert calls_in(answer) == calls
