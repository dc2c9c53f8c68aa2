"""A callback for tests: Ctrl-C at a step."""

import os
import signal

from lightning.pytorch import Callback


class StopAt(Callback):
    """The run gets SIGTERM in the step after this one, and ends with its checkpoint."""

    watches_only = True

    def __init__(self, *, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)
