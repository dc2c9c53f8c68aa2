"""Finds the end-of-text token of the data, before any text is read."""

from pathlib import Path

from mobilellm.data.config import DataConfig
from mobilellm.data.tokenizer import EOS_ID, load_tokenizer


def find_eos_token_id(config: DataConfig) -> int:
    """The id of the token that ends each document; -1 if there is none.

    For text, it is the end-of-text token of the tokenizer; for token ids, `data.eos_token_id`.

    Raises:
        FileNotFoundError: the tokenizer does not exist.
        ValueError: the tokenizer has no end-of-text token and `add_eos` is true, or
            `data.eos_token_id` is not that of the tokenizer.
    """
    if config.tokenizer is None:
        return _check_token_id(config, config.end_of_text_id) if config.is_tokenized else EOS_ID
    eos = load_tokenizer(Path(config.tokenizer), config.vocab_size).eos_id()
    if config.is_tokenized:
        configured = _check_token_id(config, config.end_of_text_id)
        if eos not in (-1, configured):
            raise ValueError(
                f"data.eos_token_id={configured}, but the end-of-text token of data.tokenizer="
                f"{config.tokenizer} is {eos}; use data.eos_token_id={eos}, or the tokenizer that "
                "the ids were made with"
            )
        return configured
    if eos < 0 and config.add_eos:
        raise ValueError(
            f"data.tokenizer={config.tokenizer} has no end-of-text token; use another, or "
            "data.add_eos=false"
        )
    return eos


def _check_token_id(config: DataConfig, eos: int | None) -> int:
    if eos is None or not 0 <= eos < config.vocab_size:
        raise ValueError(
            f"data.eos_token_id={eos} must be a token id below vocab_size={config.vocab_size}; "
            "give the id of the token that ends documents"
        )
    return eos
