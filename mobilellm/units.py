"""Formats counts, bytes, durations and rates as text, and joins lists of names."""

import re
from collections.abc import Sequence

MISSING = "–"
"""The text for an unknown value."""

_PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def count_text(value: float | None) -> str:
    """Format a count with three significant digits and an SI prefix: `1.02M`; `–` if unknown."""
    if value is None:
        return MISSING
    number, prefix = _scale(value)
    if not prefix:
        return f"{number:.0f}" if number == round(number) else f"{number:.3g}"
    return f"{_three_digits(number)}{prefix}"


def si_text(value: float) -> str:
    """Format a number to be followed by a unit: `249 M`, `12`; at most three significant digits."""
    number, prefix = _scale(value)
    return f"{number:.3g} {prefix}".rstrip()


def bytes_text(value: float | None, *, aligned: bool = False) -> str:
    """Format a number of bytes in powers of 1000: `249 MB`, `1.7 MB`; `–` if unknown.

    Args:
        value: number of bytes.
        aligned: always give three significant digits (`1.70 MB`), for columns of a table.
    """
    if value is None:
        return MISSING
    number, prefix = _scale(value)
    text = _three_digits(number) if aligned and prefix else f"{number:.3g}"
    return f"{text} {prefix}B"


def bytes_from(name: str, text: str) -> float:
    """Read a number of bytes such as `6GB`, `512 MB` or `1.5GiB`.

    Args:
        name: of the setting, for the message.
        text: a number with a unit: B, kB, MB, GB or TB (powers of 1000), KiB, MiB, GiB or TiB
            (powers of 1024).

    Raises:
        ValueError: the text is not such a number.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)B\s*", text)
    if found is None or (found[3] and not found[2]) or not float(found[1]):
        raise ValueError(f"{name}={text!r} is not a number of bytes; give e.g. 6GB or 512MB")
    return float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " ")


def duration_text(seconds: float | None) -> str:
    """Format an estimated time in the largest unit of which it is at least 1: `3.2 days`.

    Args:
        seconds: None if the time is unknown, which gives `–`.
    """
    if seconds is None:
        return MISSING
    for unit, size in (("years", 365 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def clock_text(seconds: float) -> str:
    """Format a remaining time to the second: `1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def elapsed_text(seconds: float) -> str:
    """Format an elapsed time for a table: `45 s`, `3:05 min` or `2:10 h`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def rate_text(value: float | None) -> str:
    """Format a learning rate: `0.002`, `3e-05`; `–` if unknown."""
    return MISSING if value is None else f"{value:.3g}"


def axis_text(value: float, _position: int = 0) -> str:
    """Format the tick label of an axis: `500k`, `0.2`.

    Numbers below 1 get no prefix, because `200m` would be read as 200 metres. The second argument
    is required by matplotlib's `FuncFormatter`.
    """
    if abs(value) < 1000:
        return f"{value:g}"
    number, prefix = _scale(value)
    return f"{number:g}{prefix}"


def plural(number: int, noun: str) -> str:
    """Format a number with its noun: `1 seed`, `3 seeds`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def join_names(names: Sequence[str], word: str = "and") -> str:
    """Join names as in `a, b and c`.

    Args:
        names: to join.
        word: before the last name.
    """
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {word} {names[-1]}"


def _scale(value: float) -> tuple[float, str]:
    """The number in the largest power of 1000 in which it rounds to at least 1, with its prefix."""
    number, place = float(value), 0
    while abs(number) >= 999.5 and place < len(_PREFIXES) - 1:
        number, place = number / 1000, place + 1
    return number, _PREFIXES[place]


def _three_digits(number: float) -> str:
    return f"{number:.{2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0}f}"
