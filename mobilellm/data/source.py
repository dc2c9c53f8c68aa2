"""Extension point for sources of documents.

A source yields chunks: UTF-8 bytes, or token ids if the corpus is already tokenized. A document is
one or more chunks, so that a document of many gigabytes is never in memory as a whole.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np

from mobilellm.ranges import MAX_INDEX, Range, check_fields

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

Split = Literal["train", "validation"]
SPLITS: tuple[Split, Split] = ("train", "validation")

MEGABYTES = Range(above=0, cap=1e9)
# Ranges of the fields of all sources and of `DataConfig`.
RANGES = {
    "vocab_size": Range(at_least=1, cap=MAX_INDEX),
    "eos_token_id": Range(at_least=0, cap=MAX_INDEX),
    "tokenizer_sample_megabytes": MEGABYTES, "max_megabytes": MEGABYTES,
    "held_out": Range(above=0, below=1, remedy="0.05 is common"),
    "workers": Range(at_least=1, cap=4096, remedy="null: one process per core"),
}  # fmt: skip

MAX_CHUNK_BYTES = 1 << 16
_ROWS_PER_READ = 256


class Chunk(NamedTuple):
    """A part of a document, or a whole document."""

    content: "bytes | np.ndarray[Any, Any]"
    """UTF-8 text, or token ids (tokens,)."""
    ends_document: bool
    """Whether the document ends with this chunk."""


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A corpus with a training split and optionally a validation split.

    A new format is a subclass in its own file, with a second class that also inherits `DataConfig`.
    """

    def __post_init__(self) -> None:
        """Check the fields; subclasses call this last."""
        return

    def check_values(self) -> None:
        """Check the type and range of each field; subclasses call it before checks of their own.

        Raises:
            ValueError: a value has the wrong type, or a number is out of range.
        """
        check_fields(self, "data.", **RANGES)

    @property
    def has_validation(self) -> bool:
        """Whether the corpus has a validation split."""
        return False

    @property
    def is_local(self) -> bool:
        """Whether the whole corpus is on this machine, so that reading it twice is cheap."""
        return True

    @property
    def is_tokenized(self) -> bool:
        """Whether chunks are token ids."""
        return False

    @property
    def end_of_text_id(self) -> int | None:
        """The id of the token that ends a document, if chunks are token ids."""
        return None

    @property
    def default_name(self) -> str:
        """Name of the corpus if the user gives none."""
        return type(self).__name__.lower()

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Plain data that determine every document, given the contents of `files`."""

    def files(self, split: Split) -> list[Path]:
        """The local files that a split is read from, in order.

        Raises:
            FileNotFoundError: a path does not exist.
            ValueError: a path has no files.
        """
        return []

    @abstractmethod
    def chunks(self, split: Split) -> Iterator[Chunk]:
        """All documents of a split in a fixed order.

        Raises:
            ValueError: text is not UTF-8, or a row is damaged or lacks its column.
        """


def read_texts(
    dataset: "Dataset | IterableDataset", column: str, *, described: str
) -> Iterator[bytes]:
    """The UTF-8 text of each row, from a column of strings.

    Args:
        dataset: any Hugging Face dataset, read in blocks.
        column: name of the column with the text.
        described: name of the dataset in messages.

    Raises:
        ValueError: the column does not exist, or a row holds something other than a string.
    """
    row = 0
    for block in _blocks(dataset):
        if column not in block:
            raise ValueError(
                f"{described} has no column {column!r}; set data.column to one of "
                f"{', '.join(map(str, block))}"
            )
        for text in block[column]:
            if not isinstance(text, str):
                raise ValueError(
                    f"row {row} of {described} holds {type(text).__name__} in column {column!r}, "
                    "which must be text; set data.column to another column, or remove the row"
                )
            yield encode_text(text, f"row {row} of {described}")
            row += 1


def _blocks(dataset: "Dataset | IterableDataset") -> Iterator[Mapping[str, list[Any]]]:
    for block in dataset.iter(batch_size=_ROWS_PER_READ):
        yield cast("Mapping[str, list[Any]]", block)


def encode_text(text: str, described: str) -> bytes:
    """UTF-8 bytes of a string.

    Raises:
        ValueError: the string has half of a surrogate pair, which UTF-8 cannot represent.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{described} holds the lone surrogate {text[error.start]!r}, which is not a "
            "character; correct or remove it"
        ) from None


def document_chunks(text: bytes) -> Iterator[Chunk]:
    """The chunks of a whole document; none if it is empty."""
    parts = list(cut_text(text, MAX_CHUNK_BYTES))
    for number, part in enumerate(parts, start=1):
        yield Chunk(part, number == len(parts))


def cut_text(text: bytes, limit: int) -> Iterator[bytes]:
    """Cut `text` into parts of at most `limit` bytes.

    Parts end before a run of spaces: a SentencePiece model that splits at white space has no token
    that contains such a place. If there is no space, parts end between any two characters.
    """
    start = 0
    while len(text) - start > limit:
        end = _last_word_end(text, start, start + limit)
        if end <= start:
            end = start + limit
            while text[end] & 0xC0 == 0x80:
                end -= 1
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _last_word_end(text: bytes, start: int, stop: int) -> int:
    """The end of the last word that a space follows; at most `start` if there is none."""
    end = text.rfind(b" ", start, stop)
    while end > start and text[end - 1] == 0x20:
        end -= 1
    return end
