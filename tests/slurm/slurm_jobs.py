"""The jobs on the tests' SLURM, and the processes of their ranks."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]


def queue() -> dict[str, str]:
    """The state of each job that waits or runs."""
    shown = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%i %T"],
        capture_output=True, text=True, check=True,
        encoding="utf-8",
    ).stdout  # fmt: skip
    return dict(line.split() for line in shown.splitlines())


def processes(job: str) -> dict[int, int]:
    """The trial's process of each rank of a running job."""
    array, _, task = job.partition("_")
    name = f"SLURM_ARRAY_JOB_ID={array}" if task else f"SLURM_JOB_ID={array}"
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environment = set((path / "environ").read_text(encoding="utf-8").split("\0"))
            command = (path / "cmdline").read_text(encoding="utf-8")
        except OSError:
            continue
        if "submitit" not in command or not command.partition("\0")[0].endswith("python"):
            continue
        if name in environment and (not task or f"SLURM_ARRAY_TASK_ID={task}" in environment):
            rank = next(v for v in environment if v.startswith("SLURM_PROCID="))
            found[int(rank.partition("=")[2])] = int(path.name)
    return found


def wait_until(condition: Callable[[], object], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"did not happen in time; queue: {queue()}"
        time.sleep(0.1)
