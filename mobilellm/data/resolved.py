"""The values of a data configuration that depend on files of this machine."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellm.data.config import DataConfig
from mobilellm.data.document_tokens import document_tokens
from mobilellm.data.manifest import has_tokenizer
from mobilellm.data.tokenizers import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class ResolvedData:
    """A configuration with its defaults filled in; made by `resolve_data`."""

    config: DataConfig
    name: str
    """Name of the data in folder names and reports."""
    folder: Path
    """Folder of the tokenizer and the shards; it may not exist yet."""
    vocab_size: int
    """Size of the given tokenizer, or the configured vocabulary size.

    A model may have more embedding rows than this, so that one folder serves several models.
    """
    eos_token_id: int
    """Token that ends a document; -1 if there is none."""
    bos_token_id: int | None = None
    """Token that is put before each document; None: no token."""
    adds_eos: bool = True
    """Whether `eos_token_id` is appended to each document."""

    def options(self) -> dict[str, Any]:
        """The settings, as plain data, that determine the shards of given files and tokenizer."""
        options = {
            **self.config.identity(),
            "vocab_size": self.vocab_size,
            "held_out": self.config.held_out_share,
            "max_megabytes": self.config.max_megabytes,
            "add_eos": self.adds_eos,
        }
        # Left out if they have the values that all data had before there were these settings.
        if self.bos_token_id is not None:
            options["add_bos"] = True
        if self.config.tokenizer_kind != "sentencepiece":
            options["tokenizer_kind"] = self.config.tokenizer_kind
        return options


def resolve_data(config: DataConfig) -> ResolvedData:
    """Read the given tokenizer and find the name and the folder of the data; no text is read.

    Raises:
        FileNotFoundError: the tokenizer does not exist.
        ValueError: the tokenizer does not fit the data or the model, see `document_tokens`.
    """
    around = document_tokens(config)
    name = data_name(config)
    vocab_size = config.vocab_size
    if config.tokenizer is not None and not config.is_tokenized:
        vocab_size = load_tokenizer(Path(config.tokenizer), vocab_size).vocab_size
    return ResolvedData(
        config=config,
        name=name,
        folder=_folder(config, name, vocab_size, adds_bos=around.bos_token_id is not None),
        vocab_size=vocab_size,
        eos_token_id=around.eos_token_id,
        bos_token_id=around.bos_token_id,
        adds_eos=around.adds_eos,
    )


def data_name(config: DataConfig) -> str:
    """Name of the data in folder names and reports."""
    return config.default_name if config.name is None else config.name


def _folder(config: DataConfig, name: str, vocab_size: int, *, adds_bos: bool) -> Path:
    if config.dir is not None:
        return Path(config.dir)
    parent = Path(config.prepared_dir)
    if config.tokenizer_kind != "sentencepiece":
        name = f"{name}-{config.tokenizer_kind}"
    if adds_bos:
        name = f"{name}-bos"
    folder = parent / f"{name}-{vocab_size}"
    given = Path(config.tokenizer) if config.tokenizer is not None else None
    if given is None or has_tokenizer(folder, given):
        return folder
    digest = hashlib.blake2b(given.read_bytes(), digest_size=4).hexdigest()
    return parent / f"{name}-{digest}"
