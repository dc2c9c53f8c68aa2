"""Callbacks with which a run, or one rank of it, fails."""

import os
import signal
import time
from pathlib import Path

from lightning.pytorch import Callback


class FailOnRank(Callback):
    """Rank `rank` raises, is killed, or leaves the others waiting, before step number `step`."""

    def __init__(self, rank=1, step=3, *, kill=False, hang=False):
        """Remember when."""
        self.rank, self.step, self.kill, self.hang = rank, step, kill, hang

    def on_train_batch_start(self, trainer, *_):
        """Fail when it is time."""
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.hang:
                time.sleep(3600)
            raise RuntimeError("the culprit's own words")


class SendSignal(Callback):
    """Sends this process a signal, so many times, in the step that follows number `step`."""

    def __init__(self, step, times=1, number=signal.SIGINT):
        """Remember when and which."""
        self.step, self.times, self.number = step, times, number

    def on_train_batch_start(self, trainer, *_):
        """Send it when it is time."""
        if trainer.global_step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


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
