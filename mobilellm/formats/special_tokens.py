"""The begin- and end-of-text tokens of a saved model: those of its tokenizer."""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from mobilellm.models.config import ModelConfig

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

logger = logging.getLogger(__name__)


def with_tokenizer_ids(config: ModelConfig, processor: "SentencePieceProcessor") -> ModelConfig:
    """`config` with the end-of-text token of the model's tokenizer; warns if they differ.

    In training, documents end with the tokenizer's token; a model that waits for another one never
    stops. The begin-of-text token is only changed if it equals the former end-of-text token, or is
    unknown to the tokenizer.

    Args:
        config: of the saved model.
        processor: its tokenizer; without an end-of-text token it changes nothing.
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
            "config.json has eos_token_id=%d and bos_token_id=%d, but the model's tokenizer has %d "
            "and %d, which are used", config.eos_token_id, config.bos_token_id, eos, bos,
        )  # fmt: skip
    return replace(config, eos_token_id=eos, bos_token_id=bos)
