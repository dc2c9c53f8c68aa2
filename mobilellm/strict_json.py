"""Writes standard JSON, and checks the fields of records that are read.

By default, Python's `json` writes infinity and NaN, which the standard does not allow and other
programs cannot read.
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
    """Convert a record to JSON text, with null instead of numbers that are not finite.

    Use `json.dumps(…, allow_nan=False)` instead for records that must be read back exactly.

    Args:
        record: plain data.
        indent: spaces per level; None: everything on one line.
        ensure_ascii: whether to escape all characters that are not ASCII.
        default: converts other objects to plain data; see `json.dumps`.
    """
    return json.dumps(
        replace_non_finite(record),
        indent=indent,
        ensure_ascii=ensure_ascii,
        default=default,
        allow_nan=False,
    )


def replace_non_finite(value: Any) -> Any:
    """Replace infinite numbers and NaN in plain data by None, and float keys by strings."""
    if isinstance(value, Mapping):
        return {
            str(key) if isinstance(key, float) else key: replace_non_finite(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [replace_non_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def find_fault(record: Any, fields: Mapping[str, Any], name: str = "") -> str | None:
    """Describe the first field of a record that is missing or has the wrong type.

    Args:
        record: the contents of a JSON file.
        fields: for each required field: its type, a tuple of types, the fields of an object, or a
            list with one of these for all of its elements.
        name: of the record, if it is itself a field.

    Returns:
        None if all fields are valid.
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


def json_schema(fields: Mapping[str, Any], title: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of records in which `find_fault` finds nothing.

    Args:
        fields: as for `find_fault`.
        title: of the schema.
    """
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    return head | _schema_of(fields)


_NAMES: Mapping[type, str] = {
    str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null",
    dict: "object", list: "array",
}  # fmt: skip


def _schema_of(kind: Any) -> dict[str, Any]:
    if isinstance(kind, Mapping):
        properties = {key: _schema_of(value) for key, value in kind.items()}
        return {"type": "object", "required": list(kind), "properties": properties}
    if isinstance(kind, list):
        return {"type": "array", "items": _schema_of(kind[0])}
    if isinstance(kind, tuple):
        return {"type": [_NAMES[one] for one in kind]}
    return {"type": _NAMES[kind]}


def shorten(value: Any) -> str:
    """Format a value for messages; a long text is cut."""
    text = to_json(value, indent=None, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."
