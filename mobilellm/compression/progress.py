"""Logging of the progress of long loops."""

import logging
import sys
from collections.abc import Iterable, Iterator, Sized
from time import monotonic
from typing import TypeVar

from mobilellm.units import duration_text

T = TypeVar("T")
LOG_SECONDS = 10.0

logger = logging.getLogger(__name__)


def log_progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate over `items` and show the progress and the estimated remaining time.

    On a terminal, a progress bar is shown, which disappears at the end. Otherwise a line is logged
    every ten seconds: `<description>: 12 of 84, 3.1 minutes left`.

    Args:
        items: items to iterate over.
        description: text before the progress, e.g. `shapes found`.
        total: number of items; default: their length.

    Raises:
        TypeError: `items` has no length and `total` is not given.
    """
    if total is None:
        if not isinstance(items, Sized):
            raise TypeError(f"the number of items of {type(items).__name__} is unknown; give total")
        total = len(items)
    yield from (_with_bar if sys.stderr.isatty() else _with_lines)(items, description, total)


def _with_lines(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    begun = last = monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = monotonic()
        if now - last >= LOG_SECONDS:
            last = now
            left = (now - begun) / done * (total - done)
            logger.info("%s: %d of %d, %s left", description, done, total, duration_text(left))


def _with_bar(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, total=total, description=description)
