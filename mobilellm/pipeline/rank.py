"""What happens inside the process of one rank; `rank_processes` starts it as a program."""

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.launchers.messages import shown_messages

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class Report:
    """What ended a rank before the run's end."""

    time: float
    """Seconds since the epoch."""
    rank: int
    error: BaseException
    traceback: str


def main() -> int:
    """Train as one rank; the exit code. What goes wrong is reported and not printed."""
    cfg, hydra_cfg, rank, report = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_die_with_the_parent, name="parent-watch", daemon=True).start()
    try:
        with shown_messages():
            _train(cfg, hydra_cfg)
    except BaseException as error:
        _write_report(error, rank, report)
        return 1
    return 0


def _train(cfg: "DictConfig", hydra_cfg: Any) -> None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import setup_globals

    from mobilellm.pipeline.run import train

    setup_globals()
    HydraConfig.instance().cfg = hydra_cfg
    train(cfg)


def _die_with_the_parent() -> None:
    """The parent keeps its end of the pipe open, and writes no more, for as long as it lives."""
    # Not through sys.stdin, whose lock this thread would hold when the interpreter ends.
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def _write_report(error: BaseException, rank: int, path: Path) -> None:
    """Write it as a whole; an error that cannot be passed on goes as its text."""
    now, text = time.time(), "".join(traceback.format_exception(error))
    error.__traceback__ = error.__cause__ = error.__context__ = None
    try:
        content = pickle.dumps(Report(now, rank, error, text))
        pickle.loads(content)
    except Exception:
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        content = pickle.dumps(Report(now, rank, plain, text))
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
