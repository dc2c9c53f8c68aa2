"""Starts one process per rank of a run.

Lightning would start the other ranks by repeating the command line, which with `-m` repeats the
whole sweep. Instead, the process of the command starts all ranks, as `torchrun` does, sends the
composed configuration to each, and waits for them.
"""

import math
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch import distributed

from mobilellm.cli.command import Stopped
from mobilellm.pipeline.rank_report import Report
from mobilellm.pipeline.results import Facts
from mobilellm.pipeline.run import Run
from mobilellm.pipeline.summary import describe_failure
from mobilellm.run_folder import read_summary, write_summary
from mobilellm.training.signals import handled_signals, leave_closed_terminal, stops_immediately

POLL_SECONDS = 0.05
# Time that the other ranks have to exit after one has failed or finished, and after a signal has
# stopped one; rank 0 may still have to write files.
FAILED_GRACE_SECONDS, STOPPED_GRACE_SECONDS = 10.0, 120.0
# Time after the first signal before all ranks are killed: a step of a large model may take minutes,
# and ranks that wait for one that has exited would wait forever.
SIGNAL_GRACE_SECONDS = 600.0
PROGRAM = "import sys; from mobilellm.pipeline import run_rank; sys.exit(run_rank())"


class RankDied(RuntimeError):
    """A rank exited without writing a report."""


class RankTraceback(Exception):
    """The traceback of a rank, printed before its error."""

    def __str__(self) -> str:
        """The traceback as the rank would have printed it."""
        return f"\n{self.args[0]}"


def starts_ranks(run: Run) -> bool:
    """Whether this process must start the ranks: there are several, and no launcher did."""
    place = run.trainer.process_rank
    return place.world_size > 1 and place.launcher is None


def train_on_ranks(cfg: DictConfig, run: Run) -> Facts:
    """Train in one process per rank; the first signal is forwarded to them, the second kills them.

    Returns:
        The run's summary.

    Raises:
        ValueError: the run has several nodes, which require a launcher.
        Stopped: a signal ended the ranks.
        Exception: the error of the first rank that failed, with its traceback as the cause.
    """
    if run.trainer.num_nodes > 1:
        raise ValueError(
            f"trainer.num_nodes={run.trainer.num_nodes} must be 1, because this command starts "
            "ranks only on its own node; for several nodes, start it on all of them with torchrun "
            "or srun, or use hydra/launcher=slurm"
        )
    with tempfile.TemporaryDirectory(prefix="mobilellm-ranks-") as folder:
        ranks = _Ranks(run.trainer.world_size, Path(folder))
        with ranks.started(cfg):
            ranks.wait()
        error = ranks.error()
    if error is None:
        return read_summary(run.folder) or {}
    _record_end(run, error)
    raise error


class _Ranks:
    """The processes of the ranks, and how they ended."""

    def __init__(self, size: int, folder: Path) -> None:
        self.reports = [folder / f"rank{rank}" for rank in range(size)]
        self.processes: list[subprocess.Popen[bytes]] = []
        self.signals: list[int] = []
        self.signalled_at = math.inf
        """Time of the first signal, on the monotonic clock."""
        self.is_killed = False
        """Whether this process killed the ranks, after a second signal or a timeout."""
        self.first_killed: int | None = None
        """The first rank that was killed by a signal that this process did not send."""

    @contextmanager
    def started(self, cfg: DictConfig) -> Iterator[None]:
        """Start the processes; after the block, all of them have exited."""
        # Opened by this process, so that no other program takes the port before rank 0 connects.
        store = distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # pyright: ignore
        plain = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
        with self._forwarded_signals():
            try:
                for rank, report in enumerate(self.reports):
                    message = pickle.dumps((plain, HydraConfig.instance().cfg, rank, report))
                    self._start(rank, store.port, message)
                yield
            finally:
                for process in self.processes:
                    process.kill()
                    process.wait()

    def _start(self, rank: int, port: int, message: bytes) -> None:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM],
            stdin=subprocess.PIPE,
            env=os.environ | _environment(rank, len(self.reports), port),
            # Ctrl-C in the terminal then reaches only this process, which forwards it once.
            start_new_session=True,
        )
        self.processes.append(process)
        # The pipe stays open: if it closes, the rank knows that this process has died. A rank that
        # a signal has already killed cannot receive the message.
        with suppress(BrokenPipeError):
            process.stdin.write(message)  # pyright: ignore[reportOptionalMemberAccess]
            process.stdin.flush()  # pyright: ignore[reportOptionalMemberAccess]

    def wait(self) -> None:
        """Wait until all ranks have exited; after the first, the others have a limited time."""
        deadline: float | None = None
        while None in (codes := [process.poll() for process in self.processes]):
            self._record_killed(codes)
            if deadline is None and any(code is not None for code in codes):
                is_stop = any(isinstance(r.error, KeyboardInterrupt) for r in self._read_reports())
                grace = STOPPED_GRACE_SECONDS if is_stop else FAILED_GRACE_SECONDS
                deadline = time.monotonic() + grace
            if time.monotonic() > self.signalled_at + SIGNAL_GRACE_SECONDS:
                self._kill()
            if deadline is not None and time.monotonic() > deadline:
                return
            time.sleep(POLL_SECONDS)
        self._record_killed(codes)

    def _record_killed(self, codes: list[int | None]) -> None:
        if self.first_killed is None and not self.signals:
            killed = (rank for rank, code in enumerate(codes) if code is not None and code < 0)
            # A rank with a report ended because of what it reports, and not because of a signal.
            self.first_killed = next((r for r in killed if not self.reports[r].exists()), None)

    def error(self) -> BaseException | None:
        """The error that ended the run: that of the first rank that failed."""
        codes = [process.returncode for process in self.processes]
        reports = self._read_reports()
        if any(report.error is None for report in reports) or not any(codes):
            # All ranks have finished their work, so the exit codes of the processes do not matter.
            return None
        if self.is_killed:
            return Stopped(
                f"killed by {signal.Signals(self.signals[-1]).name}, because the ranks did not "
                "exit by themselves; the same command with resume=true continues the run",
                self.signals[-1],
            )
        if self.first_killed is not None:
            name = signal.Signals(-codes[self.first_killed]).name
            return RankDied(
                f"rank {self.first_killed} of {len(codes)} was killed by {name}"
                f"{' (often: out of memory)' if name == 'SIGKILL' else ''}, which ended the run; "
                "start the same command again with resume=true"
            )
        first = min(reports, key=lambda report: report.time, default=None)
        if first is not None and first.error is not None:
            first.error.__cause__ = RankTraceback(f"rank {first.rank}: {first.traceback}")
            return first.error
        if self.signals:
            return Stopped("stopped before the first step", self.signals[0])
        rank = next(rank for rank, code in enumerate(codes) if code)
        return RankDied(f"rank {rank} of {len(codes)} exited with {codes[rank]}")

    def _read_reports(self) -> list[Report]:
        return [pickle.loads(p.read_bytes()) for p in self.reports if p.exists()]

    def _kill(self) -> None:
        # Ranks that wait in a collective operation do not react to other signals.
        self.is_killed = True
        for process in self.processes:
            process.kill()

    @contextmanager
    def _forwarded_signals(self) -> Iterator[None]:
        def receive(number: int, _frame: object) -> None:
            if stops_immediately(self.signals, number):
                self._kill()
            self.signals.append(number)
            self.signalled_at = min(self.signalled_at, time.monotonic())
            if number == signal.SIGHUP:
                leave_closed_terminal()
            for process in self.processes:
                if process.poll() is None:
                    process.send_signal(number)

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, receive) for number in handled_signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _environment(rank: int, size: int, port: int) -> dict[str, str]:
    """The environment variables that `torchrun` would set."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // size))
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
        "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": str(os.getpid()), "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": threads,
    }  # fmt: skip


def _record_end(run: Run, error: BaseException) -> None:
    """Write the error to summary.json: rank 0 may not know it, or may have been killed."""
    summary = read_summary(run.folder)
    if summary is None or summary.get("status") not in ("running", "failed"):
        return
    write_summary(run.folder, summary | describe_failure(error))
