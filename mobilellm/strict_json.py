"""JSON as its standard has it: without infinity and NaN, which other readers refuse."""

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
