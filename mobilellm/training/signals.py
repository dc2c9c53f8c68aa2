"""The signals that ask a run to save and stop, and when one of them stops it immediately."""

import errno
import os
import signal
from collections.abc import Sequence

# Ctrl-C, a request to terminate, a closed terminal, and the warnings of a scheduler.
STOP_SIGNALS = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip


def handled_signals() -> list[signal.Signals]:
    """The signals to handle now: under `nohup`, a closed terminal is ignored."""
    is_kept = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in STOP_SIGNALS if not (is_kept and number == signal.SIGHUP)]


def stops_immediately(before: Sequence[int], number: int) -> bool:
    """Whether signal `number` stops a run immediately that earlier signals already asked to stop.

    Ctrl-C after any other signal does, and so does a second SIGTERM. Repeated warnings of a
    scheduler, a closed terminal, and a SIGTERM after a warning do not: they are sent automatically.
    """
    if number == signal.SIGINT:
        return bool(before)
    impatient = (signal.SIGINT, signal.SIGTERM)
    return number == signal.SIGTERM and any(earlier in impatient for earlier in before)


def leave_closed_terminal() -> None:
    """Redirect stdout and stderr to the null device if their terminal is closed."""
    import termios

    for descriptor in (1, 2):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
