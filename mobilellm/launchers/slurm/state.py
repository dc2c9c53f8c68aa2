"""The state of submitted runs, from the files that they wrote and from SLURM."""

import os
import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mobilellm.launchers.slurm.queue import JobState, job_states
from mobilellm.launchers.slurm.record import JobRecord, read_record
from mobilellm.run_folder import read_summary

LOG_TAIL_BYTES = 262_144
# Signals by the names in srun's messages, without SIGTERM, which srun sends to the other ranks.
SIGNAL_NAMES = {
    signal.strsignal(number): number.name
    for number in signal.Signals
    if number not in (signal.SIGTERM, signal.SIGINT)
}
ACTIVE = ("queued", "requeued", "running")
COMPLETE = ("finished", "pruned")


@dataclass(frozen=True, kw_only=True)
class RunState:
    """The state of a run."""

    status: str
    """`waiting` (never submitted), `queued`, `requeued` (it waits to continue), `running`,
    `finished`, `pruned`, `stopped` or `failed`."""
    reason: str | None = None
    """Why it failed or waits."""
    record: JobRecord | None = None

    @property
    def is_active(self) -> bool:
        """Whether a job is queued for it or running it."""
        return self.status in ACTIVE

    @property
    def job(self) -> str:
        """The job, for messages."""
        return f"job {self.record.job_id}" if self.record else "no job"


def run_states(folders: Iterable[Path]) -> dict[Path, RunState]:
    """The state of each run folder, existing or not.

    SLURM is queried only for runs that were submitted and are not complete.

    Raises:
        SlurmError: SLURM does not answer.
        ValueError: a summary.json or job.json is damaged.
    """
    written = {folder: (read_summary(folder) or {}, read_record(folder)) for folder in folders}
    pending = {
        folder: record.job_id
        for folder, (summary, record) in written.items()
        if record is not None and summary.get("status") not in COMPLETE
    }
    jobs = job_states(pending.values())
    return {
        folder: _state(summary, record, jobs.get(pending.get(folder, "")))
        for folder, (summary, record) in written.items()
    }


def _state(summary: dict[str, object], record: JobRecord | None, job: JobState | None) -> RunState:
    status = str(summary.get("status") or "waiting")
    error = summary.get("error")
    recorded = str(error) if error else None
    if record is None or job is None:
        return RunState(status=status, reason=recorded, record=record)
    if job.is_waiting:
        waiting = "requeued" if summary else "queued"
        return RunState(status=waiting, reason=job.reason or None, record=record)
    if job.is_active:
        return RunState(status="running", record=record)
    if status == "stopped" or (not summary and job.name == "CANCELLED"):
        return RunState(status="stopped", reason=f"job {record.job_id}: {job}", record=record)
    reason = record.error or (recorded if status == "failed" else None)
    lost = _lost_rank(Path(record.log))
    if reason is None or lost is not None:
        # A killed rank records nothing, and the others record only that it is gone.
        reason = _reason_from_slurm(record, job, lost)
    return RunState(status="failed", reason=reason, record=record)


def _reason_from_slurm(record: JobRecord, job: JobState, lost: str | None) -> str:
    """Why a job failed that could not record the reason itself."""
    if job.name == "UNKNOWN":
        return f"job {record.job_id} has ended, and SLURM no longer knows how"
    which = f", {lost}" if lost else ""
    hint = "; often: out of memory" if "SIGKILL" in f"{job.reason}{which}" else ""
    return f"job {record.job_id} ended as {job}{which}{hint}"


def _lost_rank(log: Path) -> str | None:
    """The first rank that a signal ended since the last start, from srun's messages in the log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    last = text.rpartition("Starting with JobEnvironment")[2]
    found = re.search(r"^srun: error: (\S+): tasks? (\d+)\S*: (\D+?)(?: \(core.*)?$", last, re.M)
    if found is None or found[3] not in SIGNAL_NAMES:
        return None
    return f"rank {found[2]} on {found[1]} by {SIGNAL_NAMES[found[3]]}"


def shown_log(record: JobRecord) -> str:
    """The path of the log, relative to the working directory."""
    return os.path.relpath(record.log)
