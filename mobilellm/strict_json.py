"""JSON as its standard has it, and records that are checked for what they must hold.

The standard knows neither infinity nor NaN, and other readers refuse them.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any


def to_json(
    record: Any,
    *,
    indent: int | None = 2,
    ensure_ascii: bool = True,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """A record for readers as JSON text; null stands for numbers that are not finite.

    What has to be read back exactly is written with `json.dumps(…, allow_nan=False)` instead.

    Args:
        record: plain data.
        indent: spaces a level; None: all on one line.
        ensure_ascii: escape all other characters.
        default: makes what is no plain data into such, as of `json.dumps`.
    """
    return json.dumps(
        finite(record), indent=indent, ensure_ascii=ensure_ascii, default=default, allow_nan=False
    )


def finite(value: Any) -> Any:
    """Plain data with None for each number that is infinite or NaN; such keys become strings."""
    if isinstance(value, Mapping):
        return {
            str(key) if isinstance(key, float) else key: finite(item) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def find_fault(record: Any, fields: Mapping[str, Any], name: str = "") -> str | None:
    """The first field of a record that is missing or of another kind, described; None: all fit.

    Args:
        record: what a JSON file holds.
        fields: for each required field its type (or several), the fields of an object, or a list
            with the one or the other for all its elements.
        name: of the record, where it is a field itself.
    """
    if not isinstance(record, Mapping):
        return f"{name or 'it'} is {shorten(record)}, which must be an object"
    for key, kind in fields.items():
        path = f"{name}.{key}" if name else key
        if key not in record:
            return f"{path} is missing"
        fault = _find_kind_fault(record[key], kind, path)
        if fault:
            return fault
    return None


def _find_kind_fault(value: Any, kind: Any, path: str) -> str | None:
    if isinstance(kind, Mapping):
        return find_fault(value, kind, path)
    if isinstance(kind, list):
        if not isinstance(value, list):
            return f"{path} is {shorten(value)}, which must be a list"
        faults = (_find_kind_fault(v, kind[0], f"{path}[{i}]") for i, v in enumerate(value))
        return next((fault for fault in faults if fault), None)
    kind = (int, float) if kind is float else kind
    is_kind = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    return None if is_kind else f"{path} is {shorten(value)}"


def shorten(value: Any) -> str:
    """A value for messages, cut where it is long."""
    text = to_json(value, indent=None, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."
