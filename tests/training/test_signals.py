"""Which signals ask for an end, and which end at once."""

import os
import pty
import signal
import sys
from signal import SIGHUP, SIGINT, SIGTERM, SIGUSR2

import pytest

from mobilellm.training.signals import STOP_SIGNALS, handled_signals, stops_immediately


@pytest.mark.parametrize(("before", "number", "expected"), [
    ([], SIGINT, False), ([], SIGTERM, False), ([], SIGHUP, False),
    ([SIGINT], SIGINT, True), ([SIGTERM], SIGINT, True), ([SIGHUP], SIGINT, True),
    ([SIGTERM], SIGTERM, True), ([SIGINT], SIGTERM, True),
    # A cluster warns, then sends SIGTERM; a terminal's end is told by the shell and the kernel.
    ([SIGUSR2], SIGTERM, False), ([SIGUSR2], SIGUSR2, False), ([SIGHUP], SIGHUP, False),
])  # fmt: skip
def test_only_impatience_ends_at_once(before, number, expected):
    assert stops_immediately(before, number) is expected


def test_under_nohup_a_closed_terminal_ends_nothing():
    assert handled_signals() == list(STOP_SIGNALS)
    before = signal.signal(SIGHUP, signal.SIG_IGN)
    try:
        assert SIGHUP not in handled_signals()
    finally:
        signal.signal(SIGHUP, before)


def test_what_is_said_to_a_closed_terminal_goes_nowhere():
    child, terminal = pty.fork()
    if child == 0:
        from mobilellm.training.signals import leave_closed_terminal

        signal.signal(SIGHUP, signal.SIG_IGN)
        os.write(1, b"begun")
        try:
            while True:
                os.write(2, b".")
        except OSError:
            leave_closed_terminal()
        try:
            os.write(2, b".")
            sys.stdout.write("said")
            sys.stdout.flush()
        except OSError:
            os._exit(1)
        os._exit(7)
    assert os.read(terminal, 5) == b"begun"
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
