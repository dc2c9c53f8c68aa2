"""Messages on stderr: log records of the package, and single lines of a command."""

import codecs
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

logger = logging.getLogger("mobilellm")


def accept_all_characters() -> None:
    """Let stdout and stderr accept any text, whatever the locale.

    In the C locale, which cron, containers and cluster jobs often have, both become UTF-8, as in
    Python's own UTF-8 mode. In other locales, characters that cannot be encoded become `?`.
    """
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper) or stream.encoding.lower() == "utf-8":
            continue
        is_ascii = codecs.lookup(stream.encoding).name == "ascii"
        stream.reconfigure(encoding="utf-8" if is_ascii else None, errors="replace")


@contextmanager
def shown_messages() -> Iterator[None]:
    """Show log records of level INFO and above, with date and time unless stderr is a terminal."""
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


def print_message(message: str) -> None:
    """Print a line on stderr immediately; a closed stderr is not an error."""
    try:
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()
    except OSError:
        # The exit code still reports the outcome.
        redirect_to_null(sys.stderr)


def redirect_to_null(stream: TextIO) -> None:
    """Discard everything that is written to the stream from now on."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
