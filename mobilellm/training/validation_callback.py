"""Validation after a step, as a callback: before the callbacks that write checkpoints."""

from typing import Any

from lightning.pytorch import Callback


class ValidationCallback(Callback):
    """Validates after the steps that the module's `is_validated` names.

    Lightning's own validation loop is off, so the other callbacks are told here: EarlyStopping and
    ModelCheckpoint look at `trainer.callback_metrics` when a validation has ended.
    """

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Validate where it is due."""
        if pl_module.is_validated(pl_module.global_step):
            pl_module.validate()
            for callback in trainer.callbacks:
                callback.on_validation_end(trainer, pl_module)
