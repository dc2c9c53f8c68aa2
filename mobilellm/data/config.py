"""What is prepared, and how: the configuration that every kind of data shares."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.data.source import Source

if TYPE_CHECKING:
    from mobilellm.data.preparation.progress_bar import ProgressBar
    from mobilellm.data.prepared import PreparedData

DEFAULT_HELD_OUT = 0.05
_MIN_VOCAB_SIZE = 3 + 256


@dataclass(frozen=True, kw_only=True)
class DataConfig(Source):
    """How text becomes token shards; the classes in conf/data/*.yaml add where it comes from.

    Raises:
        ValueError: a value out of range, or a tokenizer setting that nothing would use.
    """

    vocab_size: int
    """The model's: a tokenizer is trained with so many tokens, and a given one has no more."""
    name: str | None = None
    """What the data is called in folder names and reports; default: after its source."""
    prepared_dir: str = "prepared"
    """Where `dir` lies by default."""
    dir: str | None = None
    """Folder of tokenizer and shards; default: `prepared_dir`/`name`-`num_ids`, and with a given
    tokenizer `prepared_dir`/`name`-`hash of it`, unless the former was prepared with the same."""
    tokenizer: str | None = None
    """A SentencePiece model to use; default: one is trained on the training text."""
    tokenizer_sample_megabytes: float = 16.0
    """Train the tokenizer on at most this much text (10**6 bytes), spread evenly."""
    held_out: float | None = None
    """Share of documents held out where there is no validation split; default 0.05. Where the
    documents are too few for whole ones, the last share of the text."""
    max_megabytes: float | None = None
    """Take documents until they have this much text (10**6 bytes); default: all."""
    add_eos: bool = True
    """End each document with the end-of-text token."""
    document_mask: bool = False
    """Whether training isolates documents that share a window; preparing does not depend on it."""
    workers: int | None = None
    """Processes that tokenize; default: one a core, fewer for small corpora."""

    def __post_init__(self) -> None:
        """Fill in the derived defaults and check every field."""
        super().__post_init__()
        self.check_values()
        self._check_vocab_size()
        if self.document_mask and not self.add_eos and not self.is_tokenized:
            raise ValueError(
                "data.document_mask=true finds documents by the end-of-text token, which "
                "data.add_eos=false leaves out; use data.add_eos=true"
            )
        self._check_held_out()
        if self.name is None:
            object.__setattr__(self, "name", self.default_name)
        if self.dir is None:
            object.__setattr__(self, "dir", str(self._default_folder()))

    def _default_folder(self) -> Path:
        from mobilellm.data.manifest import has_tokenizer

        parent = Path(self.prepared_dir)
        folder = parent / f"{self.name}-{self.num_ids}"
        given = Path(self.tokenizer) if self.tokenizer is not None else None
        # One that does not exist is refused when the data are asked for.
        if given is None or not given.is_file() or has_tokenizer(folder, given):
            return folder
        digest = hashlib.blake2b(given.read_bytes(), digest_size=4).hexdigest()
        return parent / f"{self.name}-{digest}"

    def _check_vocab_size(self) -> None:
        size = self.vocab_size
        trains_tokenizer = self.tokenizer is None and not self.is_tokenized
        if trains_tokenizer and size <= _MIN_VOCAB_SIZE:
            raise ValueError(
                f"data.vocab_size={size} is too small to train a tokenizer: 3 special tokens and "
                f"256 bytes leave no room for words; use model.vocab_size=512 or more"
            )

    def _check_held_out(self) -> None:
        if self.held_out is None:
            return
        if self.has_validation:
            raise ValueError(
                f"data.held_out={self.held_out} and a validation split are both given; leave out "
                "one of them"
            )

    @cached_property
    def num_ids(self) -> int:
        """Token ids are below this: the size of the given tokenizer, else `vocab_size`.

        Models whose table is padded have more rows than their tokenizer has tokens; the same data
        serves them all.
        """
        if self.tokenizer is None or self.is_tokenized or not Path(self.tokenizer).is_file():
            return self.vocab_size
        from mobilellm.data.tokenizer import load_tokenizer

        return load_tokenizer(Path(self.tokenizer), self.vocab_size).vocab_size()

    @property
    def folder(self) -> Path:
        """`dir` as a path."""
        return Path(self.dir or "")

    @property
    def held_out_share(self) -> float:
        """Share of training documents that go to validation; 0 where that has its own split."""
        if self.has_validation:
            return 0.0
        return DEFAULT_HELD_OUT if self.held_out is None else self.held_out

    def preparation(self) -> dict[str, Any]:
        """Plain data that, with the contents of files and tokenizer, determines the shards."""
        return {
            **self.identity(),
            "vocab_size": self.num_ids,
            "held_out": self.held_out_share,
            "max_megabytes": self.max_megabytes,
            "add_eos": self.add_eos,
        }

    def build(self, bar: "ProgressBar", *, shard_tokens: int) -> dict[str, Any]:
        """Write what training reads into `folder`; the manifest says of it what is returned."""
        from mobilellm.data.preparation.building import build_contents

        return build_contents(self, bar, shard_tokens=shard_tokens)

    def open(self) -> "PreparedData":
        """What `build` wrote, once the manifest is there."""
        from mobilellm.data.prepared import PreparedData

        return PreparedData(self.folder)
