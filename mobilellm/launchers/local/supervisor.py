"""Run trials as processes, several at a time; one that fails does not affect the others."""

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from omegaconf import DictConfig

from mobilellm.cli.command import Stopped
from mobilellm.hydra_app.override_text import shown_override
from mobilellm.launchers.local.fork_server import start_fork_server
from mobilellm.launchers.local.jobs import Job, Outcome, reason_of
from mobilellm.launchers.local.trial_process import TrialProcess
from mobilellm.launchers.monitor.overview import Counts, Overview, RunningTrial, progress_text
from mobilellm.launchers.monitor.progress import read_progress
from mobilellm.training import signals
from mobilellm.units import elapsed_text

POLL_SECONDS = 0.5
STOP_CODES = (
    *(128 + number for number in signals.STOP_SIGNALS),
    *(-number for number in (*signals.STOP_SIGNALS, signal.SIGKILL)),
)  # fmt: skip


@dataclass
class RunningJob:
    """A job and its process."""

    job: Job
    process: BaseProcess
    gpu: str | None
    attempt: int
    started: float
    asked_to_stop: bool = False


class Supervisor:
    """Runs jobs in processes that are forked from a server with the heavy modules loaded.

    Args:
        task: an importable function of a configuration.
        n_jobs: number of jobs that run at the same time.
        threads: CPU threads per job.
        gpus: identifiers; each job gets the GPU that has the fewest jobs.
        attempts: largest number of starts of a job that is killed by signals.
        preload: modules that the server imports before the first fork.
        common: overrides that all trials share; printed once.
    """

    def __init__(
        self,
        task: Callable[[DictConfig], Any],
        *,
        n_jobs: int,
        threads: int,
        gpus: Sequence[str] = (),
        attempts: int = 1,
        preload: Sequence[str] = (),
        common: Sequence[str] = (),
    ) -> None:
        """Keep the arguments; nothing is started yet."""
        self.common = common
        self.task = task
        self.n_jobs = n_jobs
        self.threads = threads
        self.gpus = list(gpus)
        self.attempts = attempts
        self.context = multiprocessing.get_context("forkserver")
        self.preload = list(preload)
        self.running: list[RunningJob] = []
        self.signals: list[int] = []
        """Signals received; after the first one the jobs save and end."""
        self.must_kill = False
        """Whether a further signal requires killing the jobs at once."""

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Run all jobs that are not finished yet.

        Returns:
            The outcomes in the order of `jobs`.

        Raises:
            Stopped: SIGINT, SIGTERM or SIGHUP arrived; the running jobs have saved and ended.
        """
        outcomes: dict[Job, Outcome] = {}
        counts = Counts(len(jobs))
        overview = Overview(counts)
        queue = []
        for job in jobs:
            if job.summary().get("status") == "finished":
                outcomes[job] = Outcome(job, "skipped")
                counts.skipped += 1
            else:
                queue.append((job, 1))
        with self.handle_signals(), overview:
            self._announce(overview, counts, queue)
            if queue:
                start_fork_server(self.preload, self.threads)
            while self.running or (queue and not self.signals):
                self._start_jobs(queue, overview)
                self.wait_for_one()
                for outcome in self.collect(queue, overview):
                    outcomes[outcome.job] = outcome
                    _count(counts, outcome)
                    overview.print_line(_line(outcome, counts))
                overview.refresh(self.running_trials())
        if self.signals:
            raise Stopped(
                f"stopped: {counts.line()}; run the same command again to continue: finished "
                "trials are kept, the others continue from their last checkpoint",
                self.signals[0],
            )
        return [outcomes[job] for job in jobs]

    def _announce(self, overview: Overview, counts: Counts, queue: Sequence[object]) -> None:
        before = (
            f"{counts.skipped} of {counts.total} trials are finished, " if counts.skipped else ""
        )
        at_a_time = min(self.n_jobs, len(queue))
        if queue:
            overview.print_line(
                f"{before}running {len(queue)}, {at_a_time} at a time with {self.threads} "
                f"thread{'s' if self.threads > 1 else ''} each"
                + (f" on {len(self.gpus)} GPUs" if self.gpus else "")
                + ("; loading their modules first" if self.preload else "")
            )
            if self.common:
                overview.print_line(f"all with {' '.join(map(shown_override, self.common))}")
        else:
            overview.print_line(f"all {counts.total} trials are already finished")

    def _start_jobs(self, queue: list[tuple[Job, int]], overview: Overview) -> None:
        while queue and len(self.running) < self.n_jobs and not self.signals:
            self.start(*queue.pop(0), overview)

    def start(self, job: Job, attempt: int, overview: Overview) -> None:
        """Start the process of a job."""
        gpu = self._least_used_gpu()
        target = TrialProcess(self.task, job.config, job.log, self.threads, gpu)
        process = self.context.Process(target=target, name=job.name)
        process.start()
        self.running.append(RunningJob(job, process, gpu, attempt, time.monotonic()))
        overview.print_line(f"started {job.name}" + (f" on GPU {gpu}" if gpu else ""))

    def running_trials(self) -> list[RunningTrial]:
        """The running jobs, for the display."""
        now = time.monotonic()
        return [
            RunningTrial(r.job.name, r.job.folder, now - r.started, r.job.swept)
            for r in self.running
        ]

    def _least_used_gpu(self) -> str | None:
        used = Counter(running.gpu for running in self.running)
        return min(self.gpus, key=lambda gpu: used[gpu], default=None)

    def wait_for_one(self) -> None:
        """Pass signals on to the jobs, and wait until one ends, for a short time."""
        for running in self.running:
            if self.must_kill:
                running.process.kill()
            elif self.signals and not running.asked_to_stop:
                running.process.terminate()
                running.asked_to_stop = True
        wait([running.process.sentinel for running in self.running], timeout=POLL_SECONDS)

    def collect(self, queue: list[tuple[Job, int]], overview: Overview) -> Iterator[Outcome]:
        """The outcomes of the jobs that have ended; those that start again go to the queue."""
        for running in list(self.running):
            running.process.join(timeout=0)
            code = running.process.exitcode
            if code is None:
                continue
            self.running.remove(running)
            outcome = self.outcome(running, code)
            killed = outcome.status == "failed" and code < 0
            if killed and running.attempt < self.attempts and not self.signals:
                overview.print_line(f"starting {running.job.name} again: {outcome.error}")
                queue.insert(0, (running.job, running.attempt + 1))
            else:
                yield outcome

    def outcome(self, running: RunningJob, code: int) -> Outcome:
        """The outcome of a process that has ended."""
        job = running.job
        if code == 0:
            status = job.summary().get("status")
            return Outcome(job, status if status in ("stopped", "pruned") else "finished")
        if self.signals and code in STOP_CODES:
            return Outcome(job, "stopped")
        reason = reason_of(job, code)
        job.record_failure(reason)
        return Outcome(job, "failed", reason)

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Forward Ctrl-C, SIGTERM and SIGHUP to the jobs, and kill remaining jobs at the end."""

        def receive(number: int, _frame: object) -> None:
            self.must_kill = self.must_kill or signals.stops_immediately(self.signals, number)
            self.signals.append(number)
            if number == signal.SIGHUP:
                signals.leave_closed_terminal()
            if self.must_kill or len(self.signals) == 1:
                os.write(2, _SIGNAL_TEXT[self.must_kill])

        taken = [number for number in signals.handled_signals() if number in _HANDLED]
        before = {number: signal.signal(number, receive) for number in taken}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for running in self.running:
                running.process.kill()


_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SIGNAL_TEXT = (
    b"\nstopping: the running trials finish their step and save; Ctrl-C again kills them\n",
    b"\nkilling the running trials\n",
)


def _count(counts: Counts, outcome: Outcome) -> None:
    setattr(counts, outcome.status, getattr(counts, outcome.status) + 1)


def _line(outcome: Outcome, counts: Counts) -> str:
    text = f"[{counts.done}/{counts.total}] {outcome.status} {outcome.job.name}"
    if outcome.status == "failed":
        return f"{text}: {outcome.error}"
    if outcome.job.folder is None:
        return text
    seconds = outcome.job.summary().get("wall_seconds")
    took = f" ({elapsed_text(seconds)})" if isinstance(seconds, (int, float)) else ""
    return f"{text}: {progress_text(read_progress(outcome.job.folder))}{took}"
