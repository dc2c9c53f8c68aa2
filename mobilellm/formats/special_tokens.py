"""The tokens that text of a saved model begins and ends with: its tokenizer's."""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from mobilellm.models.config import ModelConfig

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

logger = logging.getLogger(__name__)


def with_tokenizer_ids(config: ModelConfig, processor: "SentencePieceProcessor") -> ModelConfig:
    """`config` with the end-of-text token of the model's tokenizer; a warning where they differ.

    The data that the model was trained on ended documents with that token, so that a model which
    stops at another never stops. A text begins as it did, unless it began with the former end, or
    with a token that stands for nothing.

    Args:
        config: of the saved model.
        processor: its tokenizer; one without an end-of-text token changes nothing.
    """
    eos = processor.eos_id()
    if eos < 0:
        return config
    bos = config.bos_token_id
    if bos == config.eos_token_id:
        bos = eos
    elif bos >= processor.vocab_size() or processor.is_unknown(bos):
        bos = processor.bos_id() if processor.bos_id() >= 0 else eos
    if (eos, bos) != (config.eos_token_id, config.bos_token_id):
        logger.warning(
            "config.json says eos_token_id=%d and bos_token_id=%d; by its tokenizer they are %d "
            "and %d, which are used", config.eos_token_id, config.bos_token_id, eos, bos,
        )  # fmt: skip
    return replace(config, eos_token_id=eos, bos_token_id=bos)
