"""The token that ends a document, which is known before any text is read."""

from pathlib import Path

from mobilellm.data.config import DataConfig
from mobilellm.data.tokenizer import EOS_ID, load_tokenizer


def find_eos_token_id(config: DataConfig) -> int:
    """The id that ends documents of the data; -1: none does.

    It is the tokenizer's own, given or trained; of token ids, what the data says of itself.

    Raises:
        FileNotFoundError: the tokenizer does not exist.
        ValueError: the tokenizer has none and it is to be added, or token ids that are said to end
            with another than their tokenizer's.
    """
    if config.tokenizer is None:
        return _checked(config, config.end_of_text_id) if config.is_tokenized else EOS_ID
    eos = load_tokenizer(Path(config.tokenizer), config.vocab_size).eos_id()
    if config.is_tokenized:
        said = _checked(config, config.end_of_text_id)
        if eos not in (-1, said):
            raise ValueError(
                f"data.eos_token_id={said}, but texts end with token {eos} by data.tokenizer="
                f"{config.tokenizer}; use data.eos_token_id={eos}, or the tokenizer that the ids "
                "were made with"
            )
        return said
    if eos < 0 and config.add_eos:
        raise ValueError(
            f"data.tokenizer={config.tokenizer} has no end-of-text token; use another, or "
            "data.add_eos=false"
        )
    return eos


def _checked(config: DataConfig, eos: int | None) -> int:
    if eos is None or not 0 <= eos < config.vocab_size:
        raise ValueError(
            f"data.eos_token_id={eos} must be a token id below vocab_size={config.vocab_size}; "
            "give the one that ends documents"
        )
    return eos
