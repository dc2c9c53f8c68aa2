"""Warning about weights that predict no better than chance."""

import logging
import math

logger = logging.getLogger(__name__)

# Warn if the loss is at least this fraction of ln(vocabulary), the loss of a uniform prediction.
UNTRAINED_SHARE = 0.9


def warn_if_untrained(loss: float, vocab_size: int, origin: str) -> None:
    """Warn if given weights predict no better than random ones.

    Args:
        loss: nats per token on validation text.
        vocab_size: of the model.
        origin: where the weights are from.
    """
    chance = math.log(vocab_size)
    if loss < UNTRAINED_SHARE * chance:
        return
    logger.warning(
        "%s has a loss of %.2f nats per token on the validation text before anything is done, and "
        "chance is ln(%d) = %.2f: was it trained, and with this tokenizer?",
        origin, loss, vocab_size, chance,
    )  # fmt: skip
