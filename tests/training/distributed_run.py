"""A run on two gloo processes; started by test_distributed as a script.

python distributed_run.py FOLDER STRATEGY STEPS RESUME MICRO_BATCH_SIZE STOP REPEATS
"""

import os
import signal
import sys
from pathlib import Path

import lean_start  # noqa: F401
from lightning.pytorch import Callback
from small_run import fit, leave_group, make_data, make_model, make_module

from mobilellm.callbacks.checkpoint import CheckpointCallback
from mobilellm.callbacks.graceful_stop import GracefulStopCallback
from mobilellm.training.trainer import TrainerConfig


class SignalOneRank(Callback):
    """The second rank alone is told to stop."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def main():
    folder, strategy, steps, resume, size, stop, repeats = sys.argv[1:]
    devices = 1 if strategy == "one" else 2
    config = TrainerConfig(
        accelerator="cpu", devices=devices, strategy="auto" if devices == 1 else strategy
    )
    saver = CheckpointCallback(Path(folder) / "checkpoints", every_seconds=None)
    module = make_module(
        int(steps), model=make_model(block_repeats=int(repeats)), validate=3, log=1
    )
    trainer = fit(
        module,
        make_data(int(size), document_mask=True),
        Path(folder),
        callbacks=[saver, GracefulStopCallback(), SignalOneRank(int(stop))],
        resume=saver.last_path if int(resume) else None,
        config=config,
    )
    sys.stdout.write(f"rank {trainer.global_rank} ended at step {trainer.global_step}\n")
    leave_group()


if __name__ == "__main__":
    main()
