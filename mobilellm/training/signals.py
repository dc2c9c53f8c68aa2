"""The signals on which a run saves and stops, or stops immediately."""

import errno
import os
import signal
from collections.abc import Sequence

# Ctrl-C, a request to terminate, a closed terminal, and the warnings of a scheduler.
STOP_SIGNALS = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip


def handled_signals() -> list[signal.Signals]:
    """The signals to handle; not SIGHUP if it is ignored already, as under `nohup`."""
    is_kept = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in STOP_SIGNALS if not (is_kept and number == signal.SIGHUP)]


def stops_immediately(before: Sequence[int], number: int) -> bool:
    """Whether a further signal stops a run immediately, instead of after saving.

    Ctrl-C does so after any earlier signal, and SIGTERM after Ctrl-C or another SIGTERM. Other
    signals (repeated warnings of a scheduler, a closed terminal, SIGTERM after a warning) do not,
    because they are sent automatically.

    Args:
        before: the signals received so far.
        number: the further signal.
    """
    if number == signal.SIGINT:
        return bool(before)
    requests = (signal.SIGINT, signal.SIGTERM)
    return number == signal.SIGTERM and any(earlier in requests for earlier in before)


def leave_closed_terminal() -> None:
    """Redirect stdout and stderr to the null device if their terminal is closed."""
    import termios

    for descriptor in (1, 2):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                null_device = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null_device, descriptor)
                os.close(null_device)
