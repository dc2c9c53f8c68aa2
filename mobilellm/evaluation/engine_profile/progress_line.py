"""Shows how far a profile is: a line that is rewritten on a terminal, else a line now and then."""

import sys
import time

from mobilellm.units import clock_text

_SECONDS = 30.0
"""Time between two lines in a file."""


class ProgressLine:
    """Prints to the standard error; call it after every measurement, as `rounds.Report`."""

    def __init__(self) -> None:
        """Begin."""
        self._printed = 0.0

    def __call__(self, done: int, total: int, left: float | None) -> None:
        """Show the number of measurements and the time left in seconds."""
        rest = "" if left is None else f", {clock_text(left)} left"
        text = f"{done} of {total} measurements{rest}"
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{text:<60}" + ("\n" if done == total else ""))
        elif time.monotonic() - self._printed >= _SECONDS or done == total:
            self._printed = time.monotonic()
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
