"""Check the validation loss of loaded weights before they are trained further."""

from typing import Any

from lightning.pytorch import Callback

from mobilellm.evaluation.untrained import warn_if_untrained


class InitialLossCallback(Callback):
    """Warns if the first validation loss of loaded weights is close to that of a uniform guess.

    Args:
        origin: folder or file from which the weights were read, for the message.
        vocab_size: vocabulary size of the model.
    """

    def __init__(self, origin: str, vocab_size: int) -> None:
        """Keep the arguments."""
        self.origin = origin
        self.vocab_size = vocab_size

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Compare the validation loss before the first step with a uniform guess."""
        result = pl_module.validation_result
        is_first = pl_module.global_step == 0 and pl_module.validation_step == 0
        if is_first and result is not None and trainer.is_global_zero:
            warn_if_untrained(result.loss, self.vocab_size, self.origin)
