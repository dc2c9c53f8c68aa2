"""The outermost wrapper of every command: one-line error messages and exit codes.

Exit codes: 0 success; 1 a defect (its traceback is printed) or a sweep in which trials failed; 2 an
error that the user can correct; 130, 143 and 129 stopped by Ctrl-C, SIGTERM or a closed terminal.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from mobilellm.cli.errors import describe_error
from mobilellm.cli.messages import (
    accept_all_characters,
    print_message,
    redirect_to_null,
    shown_messages,
)


class Stopped(KeyboardInterrupt):
    """Raised by a task that saved its state because a signal asked it to end.

    Args:
        message: what was saved and how to continue.
        signal_number: the signal; the exit code is 128 plus this number.
    """

    def __init__(self, message: str, signal_number: int = signal.SIGINT) -> None:
        """Keep the message and the number of the signal."""
        super().__init__(message)
        self.signal_number = int(signal_number)


def run_command(main: Callable[[], object]) -> NoReturn:
    """Run a command's `main` and exit; `MOBILELLM_TRACEBACK=1` also prints tracebacks."""
    sys.exit(exit_code_of(main))


def exit_code_of(
    action: Callable[[], object],
    describe: Callable[[BaseException], str | None] = describe_error,
) -> int:
    """Run `action`, print an error as `error: …` on stderr, and return the exit code.

    Args:
        action: the function to run.
        describe: returns the one-line message of an error, or None for a defect.
    """
    _open_closed_streams()
    accept_all_characters()
    try:
        with shown_messages():
            action()
    except BrokenPipeError:
        # The reader (`head`, `less`) has exited: even the flush at exit would fail.
        redirect_to_null(sys.stdout)
        return 1
    except KeyboardInterrupt as stop:
        _show_traceback_if_asked()
        print_message(str(stop) or "stopped by Ctrl-C")
        return 128 + getattr(stop, "signal_number", signal.SIGINT)
    except Exception as error:
        message = describe(error)
        if message is None:
            traceback.print_exc()
            return 1
        _show_traceback_if_asked()
        print_message(f"error: {message}")
        return 2
    return 0


def _show_traceback_if_asked() -> None:
    if os.environ.get("MOBILELLM_TRACEBACK") == "1":
        traceback.print_exc()


def _open_closed_streams() -> None:
    """Connect a stream to the null device if the command was started with `2>&-` or `>&-`.

    Otherwise the next file that is opened would get the descriptor 1 or 2, and receive whatever
    libraries write to it.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_WRONLY)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            stream = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
