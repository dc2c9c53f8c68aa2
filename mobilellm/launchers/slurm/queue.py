"""The state of jobs, from SLURM's own tools."""

import getpass
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}
RUNNING = {"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STAGE_OUT", "STOPPED",
           "SIGNALING", "RESIZING"}  # fmt: skip


class SlurmError(ValueError):
    """SLURM's tools are missing or do not answer."""


@dataclass(frozen=True)
class JobState:
    """One job, or one task of an array."""

    name: str
    """`PENDING`, `RUNNING`, `FAILED`, `OUT_OF_MEMORY`, …; `UNKNOWN` if SLURM has deleted it."""
    reason: str = ""
    """Why the job waits, or the exit code that it ended with."""

    @property
    def is_waiting(self) -> bool:
        """Whether the job has yet to start."""
        return self.name in WAITING

    @property
    def is_active(self) -> bool:
        """Whether the job waits or runs."""
        return self.is_waiting or self.name in RUNNING

    def __str__(self) -> str:
        """The name, and the reason if it is known."""
        return f"{self.name} ({self.reason})" if self.reason else self.name


def job_states(job_ids: Iterable[str]) -> dict[str, JobState]:
    """The state of each job, `UNKNOWN` if SLURM no longer knows it.

    Raises:
        SlurmError: SLURM does not answer, so no state is known, not even that a job has ended.
    """
    wanted = set(job_ids)
    if not wanted:
        return {}
    queued = _squeue()
    states = {job: queued[job] for job in wanted & queued.keys()}
    for job in wanted - states.keys():
        states[job] = _ended(job)
    return states


def require_slurm() -> None:
    """Check that SLURM's tools are installed on this machine.

    Raises:
        SlurmError: one of them is missing.
    """
    for tool in ("sbatch", "squeue", "scontrol"):
        _require(tool)


def _squeue() -> dict[str, JobState]:
    # All jobs of the user and not single ids: squeue fails if it does not know one of the ids.
    lines = _run("squeue", "--noheader", "--array", f"--user={getpass.getuser()}",
                 "--format=%F|%K|%T|%r").splitlines()  # fmt: skip
    states = {}
    for line in lines:
        job, task, name, reason = line.split("|", 3)
        waits = name in WAITING and reason != "None"
        states[_id(job, task)] = JobState(name, reason if waits else "")
    return states


def _ended(job: str) -> JobState:
    """A job that left the queue; the controller knows it for minutes, the accounting for longer."""
    try:
        shown = _run("scontrol", "--oneliner", "show", "job", job)
    except SlurmError:
        shown = ""
    for line in shown.splitlines():
        found = dict(re.findall(r"(\S+?)=(\S*)", line))
        if job in (found.get("JobId"), f"{found.get('ArrayJobId')}_{found.get('ArrayTaskId')}"):
            return _with_exit_code(found["JobState"], found.get("ExitCode", ""))
    try:
        accounts = _run("sacct", "--noheader", "--parsable2", "--format=State,ExitCode", "-X",
                        "-j", job)  # fmt: skip
    except SlurmError:
        accounts = ""
    for line in reversed(accounts.splitlines()):
        name, _, code = line.partition("|")
        return _with_exit_code(name.split()[0], code)
    return JobState("UNKNOWN")


def _with_exit_code(name: str, exit_code: str) -> JobState:
    """`FAILED (exit code 2)`, or `FAILED (SIGKILL)`: SLURM writes `code:signal`."""
    code, number = (int(part or 0) for part in f"{exit_code}:".split(":")[:2])
    # Like a shell, srun adds 128 to the number of the signal that ended a task.
    number = number or (code - 128 if 128 < code < 128 + signal.NSIG else 0)
    if number:
        return JobState(name, signal.Signals(number).name)
    return JobState(name, f"exit code {code}" if code else "")


def _id(job: str, task: str) -> str:
    return f"{job}_{task}" if task.isdigit() else job


def _require(tool: str) -> None:
    if shutil.which(tool) is None:
        raise SlurmError(
            f"{tool} is not found, so this machine does not belong to a SLURM cluster; run the "
            "command on the cluster's login node, or use hydra/launcher=local"
        )


def _run(*command: str) -> str:
    _require(command[0])
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, encoding="utf-8"
        )
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]} does not answer; try again") from error
    if done.returncode != 0:
        text = " ".join(done.stderr.split())
        raise SlurmError(f"{' '.join(command[:2])} failed: {text}; try again")
    return done.stdout
