"""One process group per run, started from outside of Lightning.

Lightning would start further ranks by repeating the command line, under `-m` the whole sweep.
Here the process that was asked to train starts all ranks, as `torchrun` does, gives each the
composed configuration, and waits for them.
"""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.launchers.command import Stopped
from mobilellm.pipeline.rank import Report
from mobilellm.run_folder import read_summary, write_summary

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mobilellm.pipeline.plan import Run

POLL_SECONDS = 0.05
# How long the other ranks may take to end by themselves: after one failed or was done, and after
# one that a signal stopped, since the first may still have files to write.
FAILED_GRACE_SECONDS, STOPPED_GRACE_SECONDS = 10.0, 120.0
PROGRAM = "import sys; from mobilellm.pipeline.rank import main; sys.exit(main())"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class RankDied(RuntimeError):
    """A rank ended without telling why."""


class RankTraceback(Exception):
    """The traceback of a rank, printed in front of its error."""

    def __str__(self) -> str:
        """As it would have been printed there."""
        return f"\n{self.args[0]}"


def starts_ranks(run: "Run") -> bool:
    """Whether this process is to start the run's ranks: there are several and nobody else has."""
    started = "LOCAL_RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1
    return run.trainer.world_size > 1 and not started


def train_on_ranks(cfg: "DictConfig", run: "Run") -> dict[str, Any]:
    """Train `cfg` on ranks of their own; signals are passed on to them.

    Returns:
        The run's summary.

    Raises:
        ValueError: several nodes, which something else has to start.
        Exception: what the first rank to fail raised, its traceback as the cause.
    """
    if run.trainer.num_nodes > 1:
        raise ValueError(
            f"trainer.num_nodes={run.trainer.num_nodes}, and a process starts ranks on its own "
            "node only; start the command on all nodes with torchrun, srun or hydra/launcher=slurm"
        )
    with tempfile.TemporaryDirectory(prefix="mobilellm-ranks-") as folder:
        ranks = _Ranks(run.trainer.world_size, Path(folder))
        with ranks.started(cfg):
            ranks.wait()
        error = ranks.error()
    if error is None:
        return read_summary(run.folder) or {}
    if not isinstance(error, KeyboardInterrupt):
        _record_failure(run, error)
    raise error


class _Ranks:
    """The processes, and what ended them."""

    def __init__(self, size: int, folder: Path) -> None:
        self.reports = [folder / f"rank{rank}" for rank in range(size)]
        self.processes: list[subprocess.Popen[bytes]] = []
        self.signals: list[int] = []
        self.first_killed: int | None = None
        """The rank that a signal not from here ended first."""

    @contextmanager
    def started(self, cfg: "DictConfig") -> Iterator[None]:
        """Start them; at the end none is left."""
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf
        from torch import distributed

        # Held here: a port that is taken from now on, and not only once rank 0 listens.
        store = distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # pyright: ignore
        plain = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
        with self._passing_signals_on():
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
            # Ctrl-C in the terminal comes here alone, and is passed on once.
            start_new_session=True,
        )
        self.processes.append(process)
        # The pipe stays open: its end tells the rank that this process is gone.
        process.stdin.write(message)  # pyright: ignore[reportOptionalMemberAccess]
        process.stdin.flush()  # pyright: ignore[reportOptionalMemberAccess]

    def wait(self) -> None:
        """Until all have ended; once one of them has, the others get a moment."""
        deadline: float | None = None
        while None in (codes := [process.poll() for process in self.processes]):
            self._note_killed(codes)
            if deadline is None and any(code is not None for code in codes):
                is_stop = any(isinstance(r.error, KeyboardInterrupt) for r in self._read_reports())
                grace = STOPPED_GRACE_SECONDS if is_stop else FAILED_GRACE_SECONDS
                deadline = time.monotonic() + grace
            if deadline is not None and time.monotonic() > deadline:
                return
            time.sleep(POLL_SECONDS)
        self._note_killed(codes)

    def _note_killed(self, codes: list[int | None]) -> None:
        if self.first_killed is None and not self.signals:
            killed = (rank for rank, code in enumerate(codes) if code is not None and code < 0)
            # One that has reported was ended by what it reports, not by a signal.
            self.first_killed = next((r for r in killed if not self.reports[r].exists()), None)

    def error(self) -> BaseException | None:
        """What ended the run: of the rank that failed first, the others' follow from it."""
        codes = [process.returncode for process in self.processes]
        reports = self._read_reports()
        if any(report.error is None for report in reports):
            # The ranks met when the work of all was done; how they end after that is no failure.
            return None
        if self.first_killed is not None:
            name = signal.Signals(-codes[self.first_killed]).name
            return RankDied(
                f"rank {self.first_killed} of {len(codes)} was killed by {name}"
                f"{' (often: out of memory)' if name == 'SIGKILL' else ''}, which ended the run; "
                "start the same command again with resume=true"
            )
        if reports:
            first = min(reports, key=lambda report: report.time)
            first.error.__cause__ = RankTraceback(f"rank {first.rank}: {first.traceback}")
            return first.error
        if not any(codes):
            return None
        if self.signals:
            return Stopped("stopped before the first step", self.signals[0])
        rank = next(rank for rank, code in enumerate(codes) if code)
        return RankDied(f"rank {rank} of {len(codes)} exited with {codes[rank]}")

    def _read_reports(self) -> list[Report]:
        return [pickle.loads(p.read_bytes()) for p in self.reports if p.exists()]

    @contextmanager
    def _passing_signals_on(self) -> Iterator[None]:
        def receive(number: int, _frame: object) -> None:
            self.signals.append(number)
            for process in self.processes:
                if process.poll() is None:
                    process.send_signal(number)

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, receive) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun would set."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // size))
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
        "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": str(os.getpid()), "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": threads,
    }  # fmt: skip


def _record_failure(run: "Run", error: BaseException) -> None:
    """Let summary.json name the culprit: rank 0 may only know that another one was gone."""
    summary = read_summary(run.folder)
    if summary is not None and summary.get("status") in ("running", "failed"):
        failure = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        write_summary(run.folder, summary | failure)
