"""What the package logs, on stderr: warnings, progress where there is no terminal, results."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("mobilellm")


@contextmanager
def shown_messages() -> Iterator[None]:
    """Show messages from INFO on; with the time of day where they do not go to a terminal."""
    handler = logging.StreamHandler(sys.stderr)
    if not sys.stderr.isatty():
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
