"""Compares function calls: whether they have the same names, and the same arguments."""

import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from mobilellm.data.conversations.calls import Call, find_calls


def calls_in(answer: str) -> list[Call]:
    """The calls in an answer of a model, with JSON values as arguments.

    `find_calls` also reads Python's literals; a call whose arguments JSON cannot represent, such as
    a set, is left out.
    """
    found = []
    for call in find_calls(answer):
        try:
            arguments = json.loads(json.dumps(call.arguments, allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            continue
        found.append(Call(call.name, arguments))
    return found


def have_equal_names(expected: Sequence[Call], given: Sequence[Call]) -> bool:
    """Whether the same functions are called equally often, in any order."""
    return Counter(call.name for call in expected) == Counter(call.name for call in given)


def are_equal(expected: Sequence[Call], given: Sequence[Call]) -> bool:
    """Whether the calls are the same, in any order, with the same arguments in any order.

    Arguments are compared as JSON: numbers by their value, lists in their order.
    """
    first, second = (
        Counter((call.name, _comparable(call.arguments)) for call in calls)
        for calls in (expected, given)
    )
    return first == second


def _comparable(value: Any) -> Hashable:
    """A value that is equal for equal JSON."""
    if isinstance(value, Mapping):
        return "object", frozenset((key, _comparable(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return "array", tuple(map(_comparable, value))
    # In Python, True equals 1.
    return isinstance(value, bool), value
