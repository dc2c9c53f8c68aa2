"""Checks types and ranges of settings: types are given by annotations, ranges by `Range`.

Every number that a user can give is checked when the object with the setting is constructed, before
any data are read. NaN and infinity are never in range.
"""

import functools
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# Most tokens of a training budget: far more than any published run has (in 2025 about 4e13).
MAX_BUDGET = 1e15
# Largest seed that torch's generators accept, and largest 32-bit integer.
MAX_SEED = 2**63 - 1
MAX_INDEX = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Range:
    """The range of a number, or of each number in a list; without limits: every finite number."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    cap: float | None = None
    """Largest value without an overflow; messages mention it only if a value exceeds it."""
    remedy: str = ""
    """A hint at the end of the message, e.g. `null disables clipping`."""

    def __contains__(self, value: float) -> bool:
        """Whether `value` is finite and in range."""
        return (
            (isinstance(value, int) or math.isfinite(value))
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
            and (self.cap is None or value <= self.cap)
        )

    def __str__(self) -> str:
        """E.g. `above 0 and at most 1`; empty without limits."""
        if self.at_least is not None and self.at_most is not None:
            return f"between {_number(self.at_least)} and {_number(self.at_most)}"
        limits = {
            "at least": self.at_least, "above": self.above,
            "at most": self.at_most, "below": self.below,
        }  # fmt: skip
        return " and ".join(f"{k} {_number(v)}" for k, v in limits.items() if v is not None)


ANYWHERE = Range()
# At the cap, the probabilities of a softmax are uniform up to rounding.
TEMPERATURE = Range(above=0, cap=1_000_000)


def check_value(name: str, value: Any, hint: Any, allowed: Range = ANYWHERE) -> None:
    """Check one setting.

    Args:
        name: of the setting, as the user writes it.
        value: to check.
        hint: its annotation: bool, int, float, str, a `Literal`, None, lists and mappings of
            these, and unions. Other classes are not checked.
        allowed: the range of the numbers in it.

    Raises:
        ValueError: the type is wrong, or a number is out of range.
    """
    if _is_valid(value, hint, allowed):
        return
    message = f"{name}={value!r} must be {_requirement(value, hint, allowed)}"
    if isinstance(value, str) and not _is_valid("", hint, allowed) and _is_number(value):
        message += ", not text: leave out the quotes"
    raise ValueError(message + (f"; {allowed.remedy}" if allowed.remedy else ""))


def check_fields(instance: Any, prefix: str = "", /, **ranges: Range) -> None:
    """Check all fields of a dataclass; call it at the start of its `__post_init__`.

    Args:
        instance: of the dataclass.
        prefix: put before the names of fields in messages.
        ranges: of the numbers, by name of the field.

    Raises:
        ValueError: see `check_value`.
    """
    for field in fields(instance):
        value = getattr(instance, field.name)
        check_value(f"{prefix}{field.name}", value, field.type, ranges.get(field.name, ANYWHERE))


def checked(prefix: str = "", /, **ranges: Range) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that checks the arguments of a function or an `__init__` at each call.

    Args:
        prefix: put before the names of arguments in messages.
        ranges: of the numbers, by name of the argument.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError:
                given = {}  # the call below raises the same error
            for name, value in given.items():
                hint = signature.parameters[name].annotation
                check_value(f"{prefix}{name}", value, hint, ranges.get(name, ANYWHERE))
            return function(*args, **kwargs)

        return call

    return decorate


UNIONS = (typing.Union, types.UnionType)
LISTS = (list, tuple, Sequence)
# The annotations that are checked, and their names in messages.
KINDS: dict[Any, str] = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text",
    type(None): "null", None: "null", Mapping: "a mapping",
}  # fmt: skip


def _is_valid(value: Any, hint: Any, allowed: Range) -> bool:
    origin = typing.get_origin(hint)
    if origin in UNIONS:
        return any(_is_valid(value, part, allowed) for part in typing.get_args(hint))
    if origin in LISTS:
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        return is_list and all(_is_valid(item, part, allowed) for item, part in _items(value, hint))
    if origin is typing.Literal:
        return isinstance(value, str) and value in typing.get_args(hint)
    if hint in (int, float):
        is_number = isinstance(value, int if hint is int else int | float)
        # An integer above the largest float would overflow in calculations.
        is_float = hint is int or (is_number and abs(value) <= sys.float_info.max)
        return is_number and not isinstance(value, bool) and is_float and value in allowed
    kind = origin or hint
    if kind in KINDS:
        return value is None if kind is None else isinstance(value, kind)
    # Values of other classes are not checked, except that null is refused.
    return value is not None or not isinstance(hint, type)


def _items(value: Sequence[Any], hint: Any) -> list[tuple[Any, Any]]:
    """The items of a list or tuple, each with its annotation."""
    arguments = typing.get_args(hint)
    is_open = typing.get_origin(hint) is not tuple or arguments[-1:] == (...,)
    if not is_open and len(arguments) != len(value):
        return [(None, int)]  # a pair that is never valid
    parts = arguments[:1] * len(value) if is_open else arguments
    return list(zip(value, parts, strict=True))


def _requirement(value: Any, hint: Any, allowed: Range) -> str:
    """The requirement that `value` violates; for a number that is out of range, the range."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number or allowed.remedy.startswith("null"):
        parts = tuple(part for part in parts if part is not type(None)) or parts
    is_finite = is_number and (isinstance(value, int) or math.isfinite(value))
    if is_finite and allowed.cap is not None and value > allowed.cap:
        return f"at most {_number(allowed.cap)}"
    if parts == (float,) and is_finite and str(allowed):
        return str(allowed)
    text = " or ".join(dict.fromkeys(_describe_type(part, allowed) for part in parts))
    if is_number and not is_finite:
        text = text.replace(f"{KINDS[float]} that is finite", KINDS[float])
        text = text.replace(KINDS[float], "a finite number")
    return text


def _describe_type(hint: Any, allowed: Range) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(arguments)
    if origin in UNIONS:
        return " or ".join(dict.fromkeys(_describe_type(part, allowed) for part in arguments))
    if origin in LISTS:
        is_fixed = origin is tuple and arguments[-1:] != (...,)
        size = f" of {len(arguments)}" if is_fixed else ""
        return f"a list{size} in which each item is {_describe_type(arguments[0], allowed)}"
    if hint in (int, float):
        anywhere = "that is finite" if hint is float else ""
        limits = f"of {allowed}" if str(allowed).startswith("at") else str(allowed)
        return f"{KINDS[hint]} {limits or anywhere}".strip()
    return KINDS.get(origin or hint, getattr(hint, "__name__", str(hint)))


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
