"""Replaces the special tokens of a saved model by those of its tokenizer."""

import logging
from dataclasses import replace

from mobilellm.data.tokenizers import Tokenizer
from mobilellm.models.config import ModelConfig

logger = logging.getLogger(__name__)


def with_tokenizer_ids(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """Return `config` with the end-of-text token of the tokenizer; warn if the two differ.

    In training, documents end with the end-of-text token of the tokenizer, so that a model that
    waits for another token would never stop. The begin-of-text token is replaced only if it equals
    the replaced end-of-text token, or is unknown to the tokenizer.

    Args:
        config: of the saved model.
        tokenizer: its tokenizer; if it has no end-of-text token, `config` is returned unchanged.
    """
    eos = tokenizer.eos_id
    if eos is None:
        return config
    bos = config.bos_token_id
    if bos == config.eos_token_id:
        bos = eos
    elif bos >= tokenizer.vocab_size or bos == tokenizer.unk_id:
        bos = eos if tokenizer.bos_id is None else tokenizer.bos_id
    if (eos, bos) != (config.eos_token_id, config.bos_token_id):
        logger.warning(
            "config.json has eos_token_id=%d and bos_token_id=%d, but the model's tokenizer has %d "
            "and %d, which are used", config.eos_token_id, config.bos_token_id, eos, bos,
        )  # fmt: skip
    return replace(config, eos_token_id=eos, bos_token_id=bos)
