"""Save and stop a run on Ctrl-C, SIGTERM, a closed terminal or a scheduler's warning."""

import os
import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback

from mobilellm.training.ranks import max_over_ranks
from mobilellm.training.signals import handled_signals, leave_closed_terminal


class GracefulStopCallback(Callback):
    """Finishes the step, lets the checkpoint callback save, and stops; all ranks at the same step.

    The handler only records the signal. At the end of each step, the ranks exchange whether one of
    them has received a signal. A second Ctrl-C stops the run immediately. The former signal
    handlers are restored after training.
    """

    watches_only = True

    def __init__(self) -> None:
        """Start without a signal."""
        self.signal_name: str | None = None
        """The signal that stopped the run, e.g. `SIGTERM`; None if none has."""
        self.message = ""
        """The message for the user: the signal, the step, what was saved, and how to continue."""
        self._received: int = 0
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Install the handlers, after Lightning has installed its own."""
        self._received, self.signal_name, self._process = 0, None, os.getpid()
        if threading.current_thread() is threading.main_thread():
            self._previous = {
                number: signal.signal(number, self._handle) for number in handled_signals()
            }

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Stop after this step if any rank has received a signal; runs before checkpoints."""
        received = max_over_ranks(self._received)
        if received and not pl_module.finished:
            self.signal_name = signal.Signals(received).name
            trainer.should_stop = True

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Restore the former handlers, and compose the message for the user."""
        self._restore()
        if self.signal_name is None:
            return
        step = trainer.global_step
        saved = any(getattr(c, "saved_step", None) == step for c in trainer.checkpoint_callbacks)
        self.message = f"stopped by {self.signal_name} after step {step}; " + (
            "everything is saved; the same command with resume=true continues"
            if saved
            else "nothing was saved, because there is no checkpoint callback"
        )

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Restore the former handlers."""
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Child processes inherit the handler and must ignore the signals that they receive.
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
