"""Jobs that are chosen while others run, instead of being known when a sweep starts."""

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
