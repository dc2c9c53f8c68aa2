"""The process of one trial."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import env_override, setup_globals
from omegaconf import DictConfig

from mobilellm.cli.command import exit_code_of
from mobilellm.hydra_app.errors import describe_configuration_error
from mobilellm.hydra_app.trial import without_hydra

PR_SET_PDEATHSIG = 1
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class TrialProcess:
    """The target of a trial's process; it is pickled, sent to that process and called once."""

    task: Callable[[DictConfig], Any]
    config: DictConfig
    log: Path
    threads: int
    gpu: str | None

    def __call__(self) -> None:
        """Run the task with its own log, threads and GPU; exit with the codes of a command."""
        # The fork server ignores these signals; a trial must not.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        _end_with_the_sweep()
        # In its own session: Ctrl-C in the terminal reaches only the sweep, which passes it on.
        os.setsid()
        _redirect_output(self.log)
        if self.gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu
        limit_threads(self.threads)
        code = exit_code_of(lambda: run_task(self.task, self.config), describe_configuration_error)
        sys.stdout.flush()
        sys.stderr.flush()
        sys.exit(code)


def run_task(task: Callable[[DictConfig], Any], config: DictConfig) -> None:
    """Call `task` as Hydra would, with a configuration that another process composed."""
    setup_globals()
    HydraConfig.instance().set_config(config)
    with env_override(dict(config.hydra.job.env_set)):
        task(without_hydra(config))


@contextlib.contextmanager
def thread_environment(threads: int) -> Iterator[None]:
    """Set the variables that numerical libraries read when they are loaded, and restore them."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def limit_threads(threads: int) -> None:
    """Let the numerical libraries use this number of threads from now on."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


def _redirect_output(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]


def _end_with_the_sweep() -> None:
    """Make sure that this process ends with the sweep, even if the sweep is killed by SIGKILL.

    Two processes are above this one. The kernel (Linux) sends a signal if the fork server ends,
    and a pipe is closed if the sweep ends.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    sweep = parent_process()
    if sweep is None:
        return

    def watch() -> None:
        wait([sweep.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="sweep-watch", daemon=True).start()
