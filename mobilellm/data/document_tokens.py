"""Finds the tokens that begin and end each document, before any text is read."""

from dataclasses import dataclass
from pathlib import Path

from mobilellm.data.config import DataConfig
from mobilellm.data.tokenizers import Tokenizer, load_tokenizer
from mobilellm.data.tokenizers.training import special_ids


@dataclass(frozen=True)
class DocumentTokens:
    """The tokens around each document of prepared data."""

    bos_token_id: int | None
    """Token that is put before each document; None: no token."""
    eos_token_id: int
    """Token that ends a document; -1 if there is none. `adds_eos` says whether it is appended."""
    adds_eos: bool
    """Whether the end-of-text token is appended to each document."""


def document_tokens(config: DataConfig) -> DocumentTokens:
    """Find the tokens around the documents of a configuration.

    For text, they are those of the tokenizer; for token ids, the end is `data.eos_token_id`, and
    the beginning is part of the ids. If the configuration does not say what is added, the
    tokenizer's own settings do, `add_bos_token` and `add_eos_token`: many models were pretrained
    on documents that begin with the one, the other, or both. If they say nothing, the end-of-text
    token is added, and no other.

    Raises:
        FileNotFoundError: the tokenizer does not exist.
        ValueError: the tokenizer has no token of the kind that is to be added, `data.add_bos` is
            true for token ids, or `data.eos_token_id` is not that of the tokenizer.
    """
    if config.is_tokenized:
        if config.add_bos:
            raise ValueError(
                "data.add_bos=true has no effect on token ids, which contain their begin-of-text "
                "tokens already; leave it out"
            )
        return DocumentTokens(None, _end_of_ids(config), config.add_eos is not False)
    if config.tokenizer is None:
        bos, eos = special_ids(config.tokenizer_kind)
        states_bos = states_eos = False
    else:
        tokenizer = load_tokenizer(Path(config.tokenizer), config.vocab_size)
        bos, eos = tokenizer.bos_id, tokenizer.eos_id
        states_bos, states_eos = stated_tokens(tokenizer)
    return _of_text(config, bos, eos, states_bos, states_eos)


def stated_tokens(tokenizer: Tokenizer) -> tuple[bool, bool]:
    """Whether the settings of a tokenizer add begin-of-text and end-of-text tokens.

    If both are the same token, each document already begins after the end of another, and only
    the end-of-text token counts.
    """
    if tokenizer.bos_id is None or tokenizer.bos_id == tokenizer.eos_id:
        return False, False
    return tokenizer.adds_bos is True, tokenizer.adds_eos is True


def _of_text(
    config: DataConfig, bos: int | None, eos: int | None, states_bos: bool, states_eos: bool
) -> DocumentTokens:
    source = "a new tokenizer" if config.tokenizer is None else f"data.tokenizer={config.tokenizer}"
    adds_bos = states_bos if config.add_bos is None else config.add_bos
    adds_eos = True if config.always_ends else config.add_eos
    if adds_eos is None:
        adds_eos = states_eos if adds_bos and states_bos else True
    if adds_bos and bos is None:
        raise ValueError(
            f"data.add_bos=true, but {source} has no begin-of-text token; leave data.add_bos out"
        )
    if adds_bos and adds_eos and bos == eos:
        raise ValueError(
            f"data.add_bos=true would put token {bos} twice between documents, because {source} "
            "has one token for begin and end of text; leave data.add_bos out"
        )
    if eos is None and adds_eos:
        raise ValueError(f"{source} has no end-of-text token; use another, or data.add_eos=false")
    if config.document_mask and not adds_eos and not adds_bos:
        raise ValueError(
            "data.document_mask=true finds documents by the end-of-text token, which "
            "data.add_eos=false omits; use data.add_eos=true"
        )
    return DocumentTokens(bos if adds_bos else None, -1 if eos is None else eos, adds_eos)


def _end_of_ids(config: DataConfig) -> int:
    """The id that ends documents of token ids."""
    configured = config.end_of_text_id
    if configured is None or not 0 <= configured < config.vocab_size:
        raise ValueError(
            f"data.eos_token_id={configured} must be a token id below vocab_size="
            f"{config.vocab_size}; give the id of the token that ends documents"
        )
    if config.tokenizer is None:
        return configured
    eos = load_tokenizer(Path(config.tokenizer), config.vocab_size).eos_id
    if eos not in (None, configured):
        raise ValueError(
            f"data.eos_token_id={configured}, but the end-of-text token of data.tokenizer="
            f"{config.tokenizer} is {eos}; use data.eos_token_id={eos}, or the tokenizer that "
            "the ids were made with"
        )
    return configured
