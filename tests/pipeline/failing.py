"""Callbacks with which a run, or one rank of it, fails."""

import os
import signal
from pathlib import Path

from lightning.pytorch import Callback


class FailOnRank(Callback):
    """Rank `rank` raises, or is killed, before step number `step`."""

    def __init__(self, rank=1, step=3, *, kill=False):
        """Remember when."""
        self.rank, self.step, self.kill = rank, step, kill

    def on_train_batch_start(self, trainer, *_):
        """Fail when it is time."""
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("the culprit's own words")


class FailOnce(Callback):
    """Fails after a step, the first time that it is reached."""

    def __init__(self, mark, step):
        """Remember when; `mark` is a file that says that it happened."""
        self.mark, self.step = Path(mark), step

    def on_train_batch_end(self, trainer, *_):
        """Fail, unless it did before."""
        if trainer.global_step == self.step and not self.mark.exists():
            self.mark.touch()
            raise RuntimeError("fails once")
