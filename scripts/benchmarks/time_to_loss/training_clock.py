"""Times the training of a run; a module of its own, so that Hydra can build the callback."""

from typing import Any

from lightning.pytorch import Callback

from scripts.benchmarks.time_to_loss.child import Clock

CLOCK = Clock()


class TrainingClockCallback(Callback):
    """Runs the clock from the first step to the last, before the validation that follows it."""

    watches_only = True

    def on_train_batch_start(self, *_: Any) -> None:
        """Start the clock at the first step."""
        CLOCK.start()

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop the clock; the stop after the last step counts."""
        CLOCK.stop()
