"""Runs `mobilellm` in a process of its own that need not import torch and Lightning again.

The process is forked from one that has imported the large packages and done nothing else.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRELOADED = ("torch", "lightning", "mobilellm.pipeline.train", "mobilellm.report.compare")


class CommandProcess:
    """A command that was started; `poll`, `wait` and `kill` are those of `subprocess.Popen`.

    Args:
        arguments: those of `mobilellm`.
        folder: in which it runs.
        environment: further variables.
        streams: folder for its output; default: that of the tests.
    """

    def __init__(
        self,
        *arguments: str | Path,
        folder: Path = ROOT,
        environment: Mapping[str, str] | None = None,
        streams: Path | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*PRELOADED])
        given = [str(argument) for argument in arguments]
        self._process = context.Process(
            target=_run, args=(folder, given, dict(environment or {}), streams)
        )
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"it runs for more than {timeout} s")
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


def run_command(
    *arguments: str | Path,
    folder: Path = ROOT,
    seconds: float = 240,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `mobilellm ARGUMENTS` in a folder, in 80 columns.

    Raises:
        TimeoutError: it takes longer than `seconds`.
    """
    with tempfile.TemporaryDirectory() as streams:
        process = CommandProcess(
            *arguments, folder=folder, environment=environment, streams=Path(streams)
        )
        try:
            code = process.wait(seconds)
        finally:
            process.kill()
        out, error = (
            (Path(streams) / name).read_text(encoding="utf-8") for name in ("stdout", "stderr")
        )
    return subprocess.CompletedProcess([*map(str, arguments)], code, out, error)


def _run(
    folder: Path, arguments: list[str], environment: dict[str, str], streams: Path | None
) -> None:
    os.chdir(folder)
    # The modules of the tests, which the parent handed over in sys.path, are there for the
    # processes that the command starts as well.
    path = os.pathsep.join(filter(None, sys.path))
    os.environ |= {"OMP_NUM_THREADS": "1", "COLUMNS": "80", "PYTHONPATH": path, **environment}
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        if streams is not None:
            os.dup2(os.open(streams / name, os.O_WRONLY | os.O_CREAT), stream.fileno())
    from mobilellm.__main__ import main

    sys.argv = ["mobilellm", *arguments]
    main()
    sys.exit(0)
