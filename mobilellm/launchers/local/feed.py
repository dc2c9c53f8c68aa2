"""Runs the jobs of a feed as processes, several at a time."""

import time

from mobilellm.cli.command import Stopped
from mobilellm.launchers.job_feed import JobFeed
from mobilellm.launchers.local.fork_server import start_fork_server
from mobilellm.launchers.local.jobs import Outcome, reason_of
from mobilellm.launchers.local.supervisor import RunningJob, Supervisor
from mobilellm.launchers.monitor.overview import Overview

IDLE_SECONDS = 2.0
"""Between two questions for a job if none runs: other processes may have ended one."""


class FeedSupervisor(Supervisor):
    """A supervisor whose jobs are chosen while others run.

    A job whose process is killed is not recorded as failed: its feed decides.
    """

    def run_feed(self, feed: JobFeed) -> None:
        """Run jobs until the feed has no further one.

        Raises:
            Stopped: SIGINT, SIGTERM or SIGHUP arrived; the running jobs have saved and ended.
        """
        overview, self.attempts = Overview(feed.counts), 1
        with self.handle_signals(), overview:
            start_fork_server(self.preload, self.threads)
            while self._start_next(feed, overview) or self.running:
                if self.running:
                    self.wait_for_one()
                else:
                    time.sleep(IDLE_SECONDS)
                for outcome in self.collect([], overview):
                    line = feed.ended(outcome)
                    if line is not None:
                        overview.print_line(line)
                overview.refresh(self.running_trials())
        if self.signals:
            raise Stopped(
                f"stopped: {feed.counts.line()}; run the same command again to continue: ended "
                "trials are kept, the others continue from their last checkpoint",
                self.signals[0],
            )

    def _start_next(self, feed: JobFeed, overview: Overview) -> bool:
        """Start as many jobs as there is room for; returns whether the feed may have more."""
        while len(self.running) < self.n_jobs and not self.signals:
            job = feed.next_job()
            if job is None:
                return not feed.is_done()
            self.start(job, 1, overview)
        return not self.signals

    def outcome(self, running: RunningJob, code: int) -> Outcome:
        """The outcome of a process that has ended."""
        if code < 0 and not self.signals:
            return Outcome(running.job, "failed", reason_of(running.job, code), is_killed=True)
        return super().outcome(running, code)
