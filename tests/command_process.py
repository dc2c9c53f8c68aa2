"""Runs `mobilellm` in a process of its own that need not import torch and Lightning again."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRELOADED = ("torch", "lightning", "mobilellm.pipeline.train", "mobilellm.report.compare")


def run_command(
    *arguments: str | Path, folder: Path = ROOT, seconds: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run `mobilellm ARGUMENTS` in a folder, in 80 columns.

    The process is forked from one that has imported the large packages and done nothing else. The
    exit code is that of a signal if it took longer than `seconds`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED])
    given = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as streams:
        process = context.Process(target=_run, args=(folder, given, streams))
        process.start()
        process.join(seconds)
        process.kill()
        process.join()
        out, error = (
            (Path(streams) / name).read_text(encoding="utf-8") for name in ("stdout", "stderr")
        )
    return subprocess.CompletedProcess(given, process.exitcode or 0, out, error)


def _run(folder: Path, arguments: list[str], streams: str) -> None:
    os.chdir(folder)
    os.environ |= {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    for stream in (sys.stdout, sys.stderr):
        name = "stdout" if stream is sys.stdout else "stderr"
        file = os.open(Path(streams) / name, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, stream.fileno())
    from mobilellm.__main__ import main

    sys.argv = ["mobilellm", *arguments]
    main()
    sys.exit(0)
