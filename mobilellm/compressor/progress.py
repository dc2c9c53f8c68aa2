"""Work of minutes says how far it is."""

import logging
import time
from collections.abc import Collection, Iterator
from typing import TypeVar

T = TypeVar("T")
TELL_SECONDS = 10.0

logger = logging.getLogger(__name__)


def told(items: Collection[T], work: str) -> Iterator[T]:
    """Go through `items`, and log `<work>: 12 of 84` every ten seconds."""
    last = time.monotonic()
    for number, item in enumerate(items):
        yield item
        if time.monotonic() - last >= TELL_SECONDS:
            last = time.monotonic()
            logger.info("%s: %d of %d", work, number + 1, len(items))
