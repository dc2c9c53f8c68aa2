"""The outermost wrapper of every script: one-line errors, exit codes, and Hydra's command line.

Exit codes: 0 done; 1 a defect (with its traceback) or a sweep in which trials failed; 2 what the
user can put right; 130, 143 and 129 stopped by Ctrl-C, SIGTERM or a closed terminal.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from mobilellm.cli.errors import describe_error
from mobilellm.cli.messages import accept_all_characters, shown_messages

if TYPE_CHECKING:
    from omegaconf import DictConfig


class Stopped(KeyboardInterrupt):
    """Raised by a task that a signal ended after it saved its state.

    Args:
        message: what was saved and how to go on.
        signal_number: the signal; the exit code is 128 more.
    """

    def __init__(self, message: str, signal_number: int = signal.SIGINT) -> None:
        """Remember what is said and with which code the command exits."""
        super().__init__(message)
        self.signal_number = int(signal_number)


def run_command(main: Callable[[], object]) -> NoReturn:
    """Run a script's `main` and exit; `MOBILELLM_TRACEBACK=1` shows where an error came from."""
    sys.exit(exit_code_of(main))


def exit_code_of(action: Callable[[], object]) -> int:
    """Run `action`; print what goes wrong as `error: …` on stderr and give the exit code."""
    _open_closed_streams()
    accept_all_characters()
    try:
        with shown_messages():
            action()
    except BrokenPipeError:
        # The reader (`head`, `less`) has gone: not even the flush at exit can write.
        _to_nowhere(sys.stdout)
        return 1
    except KeyboardInterrupt as stop:
        _show_traceback_if_asked()
        _say(str(stop) or "stopped by Ctrl-C")
        return 128 + getattr(stop, "signal_number", signal.SIGINT)
    except Exception as error:
        message = describe_error(error)
        if message is None:
            traceback.print_exc()
            return 1
        _show_traceback_if_asked()
        _say(f"error: {message}")
        return 2
    return 0


def hydra_command(
    task: "Callable[[DictConfig], Any]",
    config_name: str,
    *,
    description: str = "",
    check: str | None = None,
    check_together: str | None = None,
    sweep_dir: str | None = None,
    config_dir: Path | None = None,
    arguments: Sequence[str] | None = None,
) -> NoReturn:
    """Run a Hydra application on the clone's conf/ folder and exit.

    All of Hydra's command line works (`key=value`, `-m`, `--cfg job`, `--info`, …), but no
    `.hydra` folder and no log file is written.

    Args:
        task: takes the composed configuration. For `hydra/launcher=local` a function that can be
            imported, best of the package.
        config_name: the root configuration, a file of conf/ without `.yaml`.
        description: shown by `--help`; usually the script's docstring.
        check: dotted path of a function that is given every trial's configuration before the
            first trial of a sweep starts, raises where it could not run, and may return the
            trial's run folder.
        check_together: dotted path of a function that is given all trials, each checked, and
            raises where they would get in each other's way.
        sweep_dir: Hydra's `hydra.sweep.dir`, where a sweep's logs go; may interpolate.
        config_dir: another folder than the clone's conf/.
        arguments: another command line than `sys.argv[1:]`.
    """
    from mobilellm.hydra_app.application import HydraApplication

    application = HydraApplication(
        task,
        config_name,
        description,
        check=check,
        check_together=check_together,
        sweep_dir=sweep_dir,
        config_dir=config_dir,
    )
    line = list(sys.argv[1:] if arguments is None else arguments)
    failures = 0

    def run() -> None:
        nonlocal failures
        failures = application.run(line)

    code = exit_code_of(run)
    sys.exit(code or (1 if failures else 0))


def _show_traceback_if_asked() -> None:
    if os.environ.get("MOBILELLM_TRACEBACK") == "1":
        traceback.print_exc()


def _open_closed_streams() -> None:
    """Give a command that was started with `2>&-` or `>&-` a stream that goes nowhere.

    Else the next file to be opened would get the descriptor's number, and with it what libraries
    write to it.
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


def _to_nowhere(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _say(message: str) -> None:
    try:
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()
    except OSError:
        # Nobody reads it: the exit code says what happened.
        _to_nowhere(sys.stderr)
