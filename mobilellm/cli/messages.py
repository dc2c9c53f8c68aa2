"""What the package logs, on stderr: warnings, progress where there is no terminal, results."""

import codecs
import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("mobilellm")


def accept_all_characters() -> None:
    """Let stdout and stderr take any text, whatever the locale.

    In the C locale, as of cron, containers and cluster jobs, both become UTF-8, as Python itself
    does in its UTF-8 mode; in others what cannot be shown becomes `?`.
    """
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper) or stream.encoding.lower() == "utf-8":
            continue
        is_ascii = codecs.lookup(stream.encoding).name == "ascii"
        stream.reconfigure(encoding="utf-8" if is_ascii else None, errors="replace")


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
