"""Checks the types of tensors when a function is called, and no other types.

The package refuses wrong values itself, with messages of its own that tests pin; a checker of all
types would be there first.
"""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def check_tensors(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, raising where an argument or its result has another shape than its type says."""
    hints = function.__annotations__
    tensors = {name: hint for name, hint in hints.items() if "jaxtyping." in repr(hint)}
    if not tensors:
        return function
    function.__annotations__ = tensors
    try:
        return beartype(function)
    finally:
        function.__annotations__ = hints
