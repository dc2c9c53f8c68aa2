"""Exit codes and messages of the outermost wrapper, on real errors."""

import errno
import logging
import re
import signal
import subprocess
import sys
import textwrap

import pytest

from mobilellm.cli.command import Stopped, exit_code_of, run_command
from mobilellm.command_names import command_for


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("num_blocks=0 must be at least 1;\n  use 1"),
         "error: num_blocks=0 must be at least 1; use 1"),
        (FileNotFoundError("data.train=x.txt does not exist"),
         "error: data.train=x.txt does not exist"),
        (TypeError("f() got 2"), "error: f() got 2 (MOBILELLM_TRACEBACK=1 shows where)"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"),
         "error: [Errno 13] Permission denied: '/x'"),
    ],
)  # fmt: skip
def test_what_the_user_caused_is_one_line_and_exit_code_2(error, line, capsys):
    assert exit_code_of(raising(error)) == 2
    assert capsys.readouterr().err == line + "\n"


def test_text_that_is_not_utf8_names_the_remedy(capsys):
    assert exit_code_of(lambda: b"caf\xe9".decode("utf-8")) == 2
    assert "must be UTF-8" in capsys.readouterr().err


def test_a_full_disk_keeps_its_name_through_any_wrapper(capsys):
    def write_to_a_full_disk() -> None:
        try:
            with open("/dev/full", "w", encoding="utf-8") as file:
                file.write("x" * 100_000)
        except OSError as error:
            raise RuntimeError("writer failed") from error

    assert exit_code_of(write_to_a_full_disk) == 2
    assert capsys.readouterr().err == (
        "error: the disk is full (writer failed); free space and run the same command again: "
        "everything written so far is kept\n"
    )


def test_a_defect_keeps_its_traceback_and_exits_with_1(capsys):
    assert exit_code_of(raising(KeyError("hidden"))) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "KeyError: 'hidden'" in error


def test_traceback_on_request(capsys, monkeypatch):
    monkeypatch.setenv("MOBILELLM_TRACEBACK", "1")
    assert exit_code_of(raising(ValueError("bad"))) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith("error: bad\n")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (Stopped("saved step 7; add resume=true"), 130, "saved step 7; add resume=true"),
        (Stopped("saved", signal.SIGTERM), 143, "saved"),
    ],
)
def test_signals_exit_with_their_code(error, code, line, capsys):
    assert exit_code_of(raising(error)) == code
    assert capsys.readouterr().err == line + "\n"


def test_success_and_argparse_exits_pass_through():
    with pytest.raises(SystemExit, match="0"):
        run_command(lambda: None)
    with pytest.raises(SystemExit, match="3"):
        run_command(lambda: sys.exit(3))


def test_a_reader_that_goes_away_is_no_traceback():
    code = textwrap.dedent("""
        from mobilellm.cli.command import run_command
        def main():
            while True:
                print("a line that nobody reads")
        run_command(main)
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=20) == 1
    assert process.stderr.read() == ""


def test_what_is_logged_is_shown_while_a_command_runs(capsys):
    log = logging.getLogger("mobilellm.callbacks.progress").info
    assert exit_code_of(lambda: log("step 3 of 4")) == 0
    log("nobody listens")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d step 3 of 4\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("program", "command"),
    [
        ("scripts/train.py", "python scripts/prepare_data.py"),
        ("/clone/scripts/train.py", "python /clone/scripts/prepare_data.py"),
        ("/venv/bin/mobilellm", "mobilellm prepare-data"),
        ("own.py", "mobilellm prepare-data"),
    ],
)
def test_other_commands_are_named_as_the_current_one_was_started(monkeypatch, program, command):
    monkeypatch.setattr("sys.argv", [program])
    assert command_for("prepare_data") == command


@pytest.mark.parametrize(("columns", "expected"), [(None, 120), ("", 120), ("80", 80)])
def test_a_console_that_is_no_terminal_has_the_width_of_columns(columns, expected, monkeypatch):
    from mobilellm.cli.console import make_console

    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert make_console(120).width == expected
