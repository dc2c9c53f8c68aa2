"""The signals that ask a run to save and end, and which of them ends it at once."""

import errno
import os
import signal
from collections.abc import Sequence

# Ctrl-C, a cluster's or an administrator's wish, a closed terminal, a scheduler's warnings.
STOP_SIGNALS = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip


def handled_signals() -> list[signal.Signals]:
    """Those to take over now: under `nohup` a closed terminal is no reason to end."""
    is_kept = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in STOP_SIGNALS if not (is_kept and number == signal.SIGHUP)]


def ends_at_once(before: Sequence[int], number: int) -> bool:
    """Whether signal `number` says that the end asked for by earlier ones takes too long.

    Ctrl-C after any other does, and a second SIGTERM. A scheduler's warning or a closed terminal
    may come twice, and SIGTERM follows a warning, without anybody being impatient.
    """
    if number == signal.SIGINT:
        return bool(before)
    impatient = (signal.SIGINT, signal.SIGTERM)
    return number == signal.SIGTERM and any(earlier in impatient for earlier in before)


def leave_closed_terminal() -> None:
    """Let stdout and stderr go nowhere where their terminal is gone: writing there would fail."""
    import termios

    for descriptor in (1, 2):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
