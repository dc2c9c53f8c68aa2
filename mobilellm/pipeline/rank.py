"""The program of one rank, which `rank_processes` starts."""

import os
import pickle
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from omegaconf import DictConfig

from mobilellm.cli.messages import shown_messages
from mobilellm.files import write_bytes_atomically
from mobilellm.pipeline.rank_report import Report
from mobilellm.pipeline.train import train


def main() -> int:
    """Train as one rank and return the exit code; errors are reported and not printed."""
    cfg, hydra_cfg, rank, report = pickle.load(sys.stdin.buffer)
    with _killed_with_parent():
        try:
            with shown_messages():
                _train(cfg, hydra_cfg)
        except BaseException as error:
            _write_report(error, rank, report)
            return 1
        # `train` returns after the ranks have met at a barrier and left the process group.
        write_bytes_atomically(report, [pickle.dumps(Report(time.time(), rank, None))])
    return 0


def _train(cfg: DictConfig, hydra_cfg: HydraConf) -> None:
    setup_globals()
    HydraConfig.instance().cfg = hydra_cfg
    train(cfg)


@contextmanager
def _killed_with_parent() -> Iterator[None]:
    """Kill this process if its parent dies, which closes the pipe to stdin.

    The thread that watches the pipe is joined, so that it does not outlive the interpreter.
    """
    is_over, end = os.pipe()

    def watch() -> None:
        # Not with sys.stdin, because this thread would hold its lock.
        readable, _, _ = select.select([0, is_over], [], [])
        if is_over not in readable:
            os.kill(os.getpid(), signal.SIGKILL)

    thread = threading.Thread(target=watch, name="parent-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(end)
        thread.join()
        os.close(is_over)


def _write_report(error: BaseException, rank: int, path: Path) -> None:
    """Write the report atomically; an error that cannot be pickled is replaced by its text."""
    now, text = time.time(), "".join(traceback.format_exception(error))
    error.__traceback__ = error.__cause__ = error.__context__ = None
    try:
        content = pickle.dumps(Report(now, rank, error, text))
        pickle.loads(content)
    except Exception:
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        content = pickle.dumps(Report(now, rank, plain, text))
    write_bytes_atomically(path, [content])
