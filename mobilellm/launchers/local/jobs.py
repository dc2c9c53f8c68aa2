"""The trials that the supervisor runs, and their outcomes."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mobilellm.run_folder import read_summary, write_summary


@dataclass(frozen=True, eq=False)
class Job:
    """One trial to run."""

    name: str
    config: DictConfig
    folder: Path | None
    """The run folder, if it is known; progress and results are read from it."""
    log: Path
    """The file that the trial's stdout and stderr are appended to."""
    swept: tuple[str, ...] = ()
    """The overrides in which it differs from the other trials."""

    def summary(self) -> dict[str, Any]:
        """The content of the trial's summary.json; empty if it does not exist yet."""
        try:
            return (read_summary(self.folder) if self.folder else None) or {}
        except ValueError:
            return {}

    def record_failure(self, reason: str) -> None:
        """Record in summary.json why a trial failed that was killed before it could do so."""
        summary = self.summary()
        if self.folder is not None and summary.get("status") == "running":
            write_summary(self.folder, {**summary, "status": "failed", "error": reason})


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    job: Job
    status: str
    """`finished`, `skipped` (finished before), `stopped`, `pruned` or `failed`."""
    error: str | None = None
    """Why the trial failed."""
    is_killed: bool = False
    """Whether its process was ended by a signal that nobody asked for."""

    def result(self) -> dict[str, Any]:
        """The trial's summary, with the status that the launcher determined."""
        status = "finished" if self.status == "skipped" else self.status
        return {**self.job.summary(), "status": status, "error": self.error}


def reason_of(job: Job, code: int) -> str:
    """Why a trial failed, on one line: its error message or signal, and its log."""
    log = os.path.relpath(job.log)
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (often: out of memory)" if -code == signal.SIGKILL else ""
        return f"killed by {name}{hint}; log: {log}"
    if code > 2:
        return f"exited with code {code}; log: {log}"
    try:
        lines = [
            line
            for line in job.log.read_text(errors="replace", encoding="utf-8").splitlines()
            if line.strip()
        ]
    except OSError:
        lines = []
    last = lines[-1].removeprefix("error: ") if lines else f"exit code {code}"
    return f"{last}; log: {log}"
