"""Work of minutes says how far it is."""

import logging
from collections.abc import Collection, Iterator
from time import monotonic
from typing import TypeVar

T = TypeVar("T")
TELL_SECONDS = 10.0

logger = logging.getLogger(__name__)


def told(items: Collection[T], work: str) -> Iterator[T]:
    """Go through `items`, and log `<work>: 12 of 84` every ten seconds."""
    last = monotonic()
    for number, item in enumerate(items):
        yield item
        if monotonic() - last >= TELL_SECONDS:
            last = monotonic()
            logger.info("%s: %d of %d", work, number + 1, len(items))
