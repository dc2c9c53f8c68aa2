"""Validation as a callback that runs before the callbacks that write checkpoints."""

from typing import Any

from lightning.pytorch import Callback


class ValidationCallback(Callback):
    """Validates after the steps for which the module's `is_validated` is true.

    Lightning's own validation loop is disabled. This callback therefore calls `on_validation_end`
    of all callbacks, in which EarlyStopping and ModelCheckpoint read `trainer.callback_metrics`.
    """

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Validate if it is due after this step."""
        if pl_module.is_validated(pl_module.global_step):
            pl_module.validate()
            for callback in trainer.callbacks:
                callback.on_validation_end(trainer, pl_module)
