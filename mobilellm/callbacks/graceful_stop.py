"""Ctrl-C, SIGTERM, a closed terminal and a scheduler's warning end a run after its step, saved."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback

from mobilellm.training.signals import handled_signals, leave_closed_terminal


class GracefulStopCallback(Callback):
    """Finishes the step, lets the checkpoint callback save, and stops; all ranks at one step.

    The handler only notes the signal. At each step's end the ranks agree whether one of them got
    any. A second Ctrl-C stops at once. While no run is on, signals do what they did before.
    """

    watches_only = True

    def __init__(self) -> None:
        """No signal yet."""
        self.signal_name: str | None = None
        """`SIGINT`, `SIGTERM`, … once one ended the run, else None."""
        self.message = ""
        """What ended the run after which step, what was saved, and how to go on; for the user."""
        self._received: int = 0
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Take the signals over; Lightning's own handlers are in place by now."""
        self._received, self.signal_name, self._process = 0, None, os.getpid()
        if threading.current_thread() is threading.main_thread():
            self._previous = {
                number: signal.signal(number, self._handle) for number in handled_signals()
            }

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Stop after this step if any rank was told to; runs before the checkpoint callback."""
        received = self._received
        if trainer.world_size > 1:
            flag = torch.tensor(received, device=trainer.strategy.root_device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            received = int(flag)
        if received and not pl_module.finished:
            self.signal_name = signal.Signals(received).name
            trainer.should_stop = True

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Give the signals back, and tell how to go on."""
        self._restore()
        if self.signal_name is None:
            return
        step = trainer.global_step
        saved = any(getattr(c, "saved_step", None) == step for c in trainer.checkpoint_callbacks)
        self.message = f"stopped by {self.signal_name} after step {step}; " + (
            "everything is saved; the same command with resume=true goes on"
            if saved
            else "nothing was saved, since no checkpoint callback is on"
        )

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Children of this process inherit the handler.
        if os.getpid() != self._process:
            return
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
        if number == signal.SIGHUP:
            leave_closed_terminal()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
