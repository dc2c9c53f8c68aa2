"""Checks the types of tensors when a function is called, and no other types.

The package refuses wrong values itself, with messages of its own that tests pin; a checker of all
types would be there first.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from beartype import beartype


def check_tensors(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, raising where an argument or its result has another shape than its type says."""
    hints = function.__annotations__
    tensors = {name: hint for name, hint in hints.items() if "jaxtyping." in repr(hint)}
    if not tensors:
        return function
    function.__annotations__ = tensors
    try:
        checked = beartype(function)
    finally:
        function.__annotations__ = hints

    @functools.wraps(function)
    def unless_compiling(*args: Any, **kwargs: Any) -> Any:
        """torch.compile cannot trace the checks."""
        return (function if torch.compiler.is_compiling() else checked)(*args, **kwargs)

    return unless_compiling
