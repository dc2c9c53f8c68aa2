"""Numbers as a reader wants them: 1.02M, 3.4 MB, 12 min, 4.213 ± 0.012."""

import math

from mobilellm.report.statistics import Interval

MISSING = "–"
METRIC = ("", "k", "M", "G", "T", "P", "E")


def count_text(value: float | None) -> str:
    """A count with three digits and a metric letter: `1.02M`; `–` where it is not known."""
    if value is None:
        return MISSING
    number, letter = _scaled(value, METRIC, 1000)
    if not letter:
        return f"{number:.0f}" if number == round(number) else f"{number:.3g}"
    return f"{_three_digits(number)}{letter}"


def axis_text(value: float, _position: int = 0) -> str:
    """A tick of an axis: `500k`, `0.2`; a small number has no letter, `200m` reads as metres."""
    if abs(value) < 1000:
        return f"{value:g}"
    number, letter = _scaled(value, METRIC, 1000)
    return f"{number:g}{letter}"


def bytes_text(value: float | None) -> str:
    """Bytes in decimal units: `3.40 MB`."""
    if value is None:
        return MISSING
    number, letter = _scaled(value, ("B", "kB", "MB", "GB", "TB"), 1000)
    return f"{number:.0f} B" if letter == "B" else f"{_three_digits(number)} {letter}"


def seconds_text(value: float | None) -> str:
    """A duration: `42 s`, `12 min`, `3.5 h`."""
    if value is None:
        return MISSING
    if value < 120:
        return f"{value:.0f} s"
    if value < 7200:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h"


def interval_text(interval: Interval | None) -> str:
    """`4.213 ± 0.012`; the mean alone where one value gives no interval."""
    if interval is None:
        return MISSING
    if interval.half_width is None:
        return f"{interval.mean:.3f}".replace("-", "−")
    digits = _digits(interval.half_width)
    return f"{interval.mean:.{digits}f} ± {interval.half_width:.{digits}f}".replace("-", "−")


def signed_text(interval: Interval) -> str:
    """A difference with its sign: `+0.050 ± 0.020`."""
    return f"{'' if interval.mean < 0 else '+'}{interval_text(interval)}"


def size_text(interval: Interval) -> str:
    """The size of a difference without its sign: `0.050 ± 0.020`."""
    return interval_text(Interval(abs(interval.mean), interval.half_width, interval.count))


def rate_text(value: float | None) -> str:
    """A learning rate: `0.002`, `3e-05`."""
    return MISSING if value is None else f"{value:.3g}"


def listed(names: list[str] | tuple[str, ...], word: str = "and") -> str:
    """`a, b and c`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {word} {names[-1]}"


def plural(number: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _scaled(value: float, letters: tuple[str, ...], base: int) -> tuple[float, str]:
    number, place = float(value), 0
    while abs(number) >= base * 0.9995 and place < len(letters) - 1:
        number, place = number / base, place + 1
    return number, letters[place]


def _three_digits(number: float) -> str:
    return f"{number:.{2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0}f}"


def _digits(half_width: float) -> int:
    """3 decimals, or as many as the first digit of a smaller half-width needs, at most 5."""
    if not 0 < half_width < math.inf:
        return 3
    return min(5, max(3, -math.floor(math.log10(half_width))))
