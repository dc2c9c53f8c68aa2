"""Warning about weights that predict no better than chance."""

import logging
import math

logger = logging.getLogger(__name__)

# Warn if the loss is at least this fraction of ln(vocabulary), the loss of a uniform prediction.
UNTRAINED_SHARE = 0.9


def warn_if_untrained(loss: float, vocab_size: int, origin: str) -> None:
    """Warn if weights that were given predict no better than random ones.

    Args:
        loss: nats per token on the validation text.
        vocab_size: of the model.
        origin: file or folder of the weights, for the message.
    """
    chance = math.log(vocab_size)
    if loss < UNTRAINED_SHARE * chance:
        return
    logger.warning(
        "%s has an initial loss of %.2f nats per token on the validation text, about that of a "
        "uniform prediction, ln(%d) = %.2f; check that it was trained, and with this tokenizer",
        origin, loss, vocab_size, chance,
    )  # fmt: skip
