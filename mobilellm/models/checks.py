"""Checks of single values, whose messages say what is required."""

import difflib
from collections.abc import Sequence
from typing import Any


def check_positive(name: str, value: Any) -> None:
    """Raise ValueError unless a value is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1")


def check_choice(name: str, value: str, choices: Any) -> None:
    """Check that a value is one of `choices`.

    Raises:
        ValueError: it is not. The message lists the choices, the most similar first.
    """
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=len(choices), cutoff=0.0)
        raise ValueError(f"{name}={value!r} is not known; use one of {', '.join(near)}")


def listed(numbers: Sequence[int]) -> str:
    """Join numbers to a text such as `1, 3 or 9`."""
    *head, last = map(str, numbers)
    return f"{', '.join(head)} or {last}" if head else last
