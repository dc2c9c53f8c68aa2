"""A look at what given weights know of the data, before they are trained further."""

from typing import Any

from lightning.pytorch import Callback

from mobilellm.evaluation.untrained import warn_if_untrained


class InitialLossCallback(Callback):
    """Warns where the first validation of given weights is near chance.

    Args:
        origin: where the weights are from.
        vocab_size: of the model.
    """

    def __init__(self, origin: str, vocab_size: int) -> None:
        """Nothing is known yet."""
        self.origin = origin
        self.vocab_size = vocab_size

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Look at the validation before the first step."""
        result = pl_module.validation_result
        is_first = pl_module.global_step == 0 and pl_module.validation_step == 0
        if is_first and result is not None and trainer.is_global_zero:
            warn_if_untrained(result.loss, self.vocab_size, self.origin)
