"""A callback with which one rank fails."""

import os
import signal

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
