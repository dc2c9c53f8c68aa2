"""Runs the jobs of a feed as SLURM jobs, each of which is submitted when it is chosen."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mobilellm.cli.command import Stopped
from mobilellm.cli.errors import CommandError
from mobilellm.launchers.job_feed import JobFeed, ListedJobs
from mobilellm.launchers.local.jobs import Job, Outcome
from mobilellm.launchers.monitor.overview import Overview, RunningTrial
from mobilellm.launchers.slurm.queue import SlurmError, require_slurm
from mobilellm.launchers.slurm.settings import SlurmSettings, settings_of
from mobilellm.launchers.slurm.state import COMPLETE, RunState, run_states, shown_log
from mobilellm.launchers.slurm.submission import require_submitit
from mobilellm.launchers.slurm.submitter import SlurmSubmitter


class SlurmFeed:
    """Runs jobs on a cluster, at most `array_parallelism` at a time, and waits for them.

    Each job names the resources that it requests. A job whose run is queued or running already, for
    example because an earlier command submitted it, is waited for and not submitted again.

    Args:
        task: an importable function of a configuration.
        settings: how many jobs there are at a time, and how often SLURM is asked.
        folder: for the copy of the code, the submitted jobs and their logs.
        name: of the SLURM jobs.
        attempts: largest number of starts of a job of `run` that is killed.

    Raises:
        ValueError: submitit is not installed, or this is not a machine of a SLURM cluster.
    """

    def __init__(
        self, task: Callable[[DictConfig], Any], settings: SlurmSettings, folder: Path, name: str,
        *, attempts: int = 1,
    ) -> None:  # fmt: skip
        """Copy the code; nothing is submitted yet."""
        require_submitit()
        require_slurm()
        self.settings, self.attempts = settings, attempts
        self.submitter = SlurmSubmitter(task, folder, name)
        self.waiting_for: dict[Path, Job] = {}

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Run jobs that are known beforehand, except those that are finished.

        Returns:
            The outcomes in the order of `jobs`.

        Raises:
            Stopped: Ctrl-C; the jobs keep running.
        """
        feed = ListedJobs(jobs, attempts=self.attempts)
        self.run_feed(feed)
        return feed.outcomes

    def run_feed(self, feed: JobFeed) -> None:
        """Run jobs until the feed has no further one.

        Raises:
            Stopped: Ctrl-C; the jobs keep running.
        """
        started, overview = time.monotonic(), Overview(feed.counts)
        if self.submitter.snapshot.commit is None:
            overview.print_line(self.submitter.without_commit)
        try:
            with overview:
                while self._start_next(feed, overview) or self.waiting_for:
                    time.sleep(self.settings.poll_seconds)
                    self._collect(feed, overview, time.monotonic() - started)
        except KeyboardInterrupt:
            raise Stopped(
                f"no longer waiting: {feed.counts.line()}; the jobs keep running (scancel ends "
                "them); run the same command again to continue"
            ) from None

    def _start_next(self, feed: JobFeed, overview: Overview) -> bool:
        """Submit as many jobs as there is room for; returns whether the feed may have more."""
        while len(self.waiting_for) < self.settings.array_parallelism:
            job = feed.next_job()
            if job is None:
                return not feed.is_done()
            self._start(job, overview)
        return True

    def _start(self, job: Job, overview: Overview) -> None:
        if job.folder is None:
            raise CommandError(f"{job.name} has no run folder, which SLURM jobs require")
        path = job.folder.absolute()
        state = run_states([path])[path]
        if state.is_active:
            overview.print_line(f"already {state.status} as {state.job}: {job.name}")
        else:
            [number] = self.submitter.submit({path: job.config}, settings_of(job.config))
            overview.print_line(f"submitted {job.name} as job {number}")
        self.waiting_for[path] = job

    def _collect(self, feed: JobFeed, overview: Overview, seconds: float) -> None:
        """Report the jobs that have ended, and show the others."""
        try:
            states = run_states(self.waiting_for)
        except SlurmError:
            # The controller may be restarting, so the query is repeated.
            return
        for path in [path for path, state in states.items() if not state.is_active]:
            line = feed.ended(outcome_of(self.waiting_for.pop(path), states[path]))
            if line is not None:
                overview.print_line(line)
        overview.refresh(
            [
                RunningTrial(job.name, path, seconds, job.swept)
                for path, job in self.waiting_for.items()
                if states[path].status == "running"
            ]
        )


def outcome_of(job: Job, state: RunState) -> Outcome:
    """How a job ended that is neither queued nor running.

    A job that was cancelled counts as killed, so that it does not start again without end.
    """
    is_cancelled = "CANCELLED" in (state.reason or "")
    if state.status in COMPLETE or (state.status == "stopped" and not is_cancelled):
        return Outcome(job, state.status)
    reason = state.reason or "no reason is known"
    if state.record is not None:
        reason += f"; log: {shown_log(state.record)}"
    # A run that fails by itself says so; others were ended from outside.
    recorded = state.record is not None and state.record.error is not None
    return Outcome(job, "failed", reason, is_killed=not recorded)
