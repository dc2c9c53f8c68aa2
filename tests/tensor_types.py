"""Checks the types of tensors when a function is called, and no other types.

The package refuses wrong values itself, with messages of its own that tests pin; a checker of all
types would be there first.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jaxtyping
import torch
from beartype import beartype


def check_tensors_of(packages: Sequence[str]) -> None:
    """Check the tensors of all functions of these packages and modules, which are imported later.

    Of the functions, only those with tensors in their types are wrapped: a wrapper costs more time
    than most of the others, which count, take.
    """
    wrap = jaxtyping.jaxtyped

    def wrap_if_tensors(*, typechecker: Any) -> Callable[[Any], Any]:
        def decorate(given: Any) -> Any:
            hints = getattr(given, "__annotations__", {})
            if inspect.isfunction(given) and not any(map(_is_of_tensors, hints.values())):
                return given
            return wrap(given, typechecker=typechecker)

        return decorate

    # The import hook decorates with this name.
    jaxtyping.jaxtyped = wrap_if_tensors
    jaxtyping.install_import_hook(list(packages), "tensor_types.check_tensors")


def _is_of_tensors(hint: Any) -> bool:
    return "jaxtyping." in repr(hint)


def check_tensors(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, raising where an argument or its result has another shape than its type says."""
    hints = function.__annotations__
    tensors = {name: hint for name, hint in hints.items() if _is_of_tensors(hint)}
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
