"""Work of minutes says how far it is: a bar on a terminal, lines in a log."""

import logging
import sys
from collections.abc import Collection, Iterator
from time import monotonic
from typing import TypeVar

from mobilellm.units import duration_text

T = TypeVar("T")
TELL_SECONDS = 10.0

logger = logging.getLogger(__name__)


def told(items: Collection[T], work: str) -> Iterator[T]:
    """Go through `items`, showing how many are done and how long the others will take.

    On a terminal a bar, which goes when all are done; else every ten seconds a line in the log,
    `<work>: 12 of 84, 3.1 minutes left`.
    """
    yield from (_with_bar if sys.stderr.isatty() else _with_lines)(items, work)


def _with_lines(items: Collection[T], work: str) -> Iterator[T]:
    begun = last = monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = monotonic()
        if now - last >= TELL_SECONDS:
            last = now
            left = (now - begun) / done * (len(items) - done)
            logger.info("%s: %d of %d, %s left", work, done, len(items), duration_text(left))


def _with_bar(items: Collection[T], work: str) -> Iterator[T]:
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
        yield from progress.track(items, total=len(items), description=work)
