"""Weights that predict no better than chance on the data they are given."""

import logging
import math

logger = logging.getLogger(__name__)

# Share of ln(vocabulary), the loss of a model that knows nothing, from which on to warn.
UNTRAINED_SHARE = 0.9


def warn_if_untrained(loss: float, vocab_size: int, origin: str) -> None:
    """Warn where given weights do no better than weights drawn at random.

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
