"""Jobs that are chosen while others run, instead of being known when a sweep starts."""

from collections.abc import Sequence
from typing import Protocol

from mobilellm.launchers.local.jobs import Job, Outcome
from mobilellm.launchers.monitor.overview import Counts


class JobFeed(Protocol):
    """Where a launcher gets its jobs from."""

    counts: Counts
    """Shown while the jobs run; the feed keeps it up to date."""

    def next_job(self) -> Job | None:
        """A job that is to start now; None if there is none at the moment."""
        ...

    def is_done(self) -> bool:
        """Whether there will be no further job."""
        ...

    def ended(self, outcome: Outcome) -> str | None:
        """Take the outcome of a job that `next_job` returned; returns a line to print, if any."""
        ...


class ListedJobs:
    """A feed of jobs that are known beforehand; those that are finished already are skipped.

    Args:
        jobs: the jobs.
        attempts: largest number of starts of a job that is killed.
    """

    def __init__(self, jobs: Sequence[Job], *, attempts: int = 1) -> None:
        """Count the jobs that are finished."""
        self.jobs, self.attempts = jobs, attempts
        self.counts = Counts(len(jobs))
        self.found: dict[Job, Outcome] = {}
        self.left: list[tuple[Job, int]] = []
        for job in jobs:
            if job.summary().get("status") == "finished":
                self.found[job] = Outcome(job, "skipped")
                self.counts.skipped += 1
            else:
                self.left.append((job, 1))
        self.starts: dict[Job, int] = {}

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes in the order of the jobs, after all have ended."""
        return [self.found[job] for job in self.jobs]

    def next_job(self) -> Job | None:
        """The next job that has not started."""
        if not self.left:
            return None
        job, start = self.left.pop(0)
        self.starts[job] = start
        return job

    def is_done(self) -> bool:
        """Whether all jobs have ended."""
        return len(self.found) == len(self.jobs)

    def ended(self, outcome: Outcome) -> str | None:
        """Take an outcome; a job that was killed starts again."""
        job, start = outcome.job, self.starts[outcome.job]
        if outcome.is_killed and start < self.attempts:
            self.left.append((job, start + 1))
            return f"starting {job.name} again: {outcome.error}"
        self.found[job] = outcome
        setattr(self.counts, outcome.status, getattr(self.counts, outcome.status) + 1)
        reason = f": {outcome.error}" if outcome.error else ""
        return f"[{self.counts.done}/{self.counts.total}] {outcome.status} {job.name}{reason}"
