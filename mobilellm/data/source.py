"""Where documents come from: the seam between a corpus and everything after it.

A source yields chunks: UTF-8 bytes, or token ids where the corpus is tokenized already. A document
is one or more chunks, so that one of many gigabytes never lies in memory whole.
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
# Of the fields of all sources and of `DataConfig`.
RANGES = {
    "vocab_size": Range(at_least=1, cap=MAX_INDEX),
    "eos_token_id": Range(at_least=0, cap=MAX_INDEX),
    "tokenizer_sample_megabytes": MEGABYTES, "max_megabytes": MEGABYTES,
    "held_out": Range(above=0, below=1, remedy="0.05 is common"),
    "workers": Range(at_least=1, cap=4096, remedy="null: one process a core"),
}  # fmt: skip

MAX_CHUNK_BYTES = 1 << 16
_ROWS_PER_READ = 256


class Chunk(NamedTuple):
    """A part of a document, or all of it."""

    content: "bytes | np.ndarray[Any, Any]"
    """UTF-8 text, or token ids (tokens,)."""
    ends_document: bool
    """Whether the next chunk begins another document."""


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A corpus with a training split and perhaps a validation split.

    A new format is a subclass in a file of its own, and a class that joins it with `DataConfig`.
    """

    def __post_init__(self) -> None:
        """Check the fields; subclasses call this last."""
        return

    def check_values(self) -> None:
        """Check type and range of each field; classes that look at theirs begin with it.

        Raises:
            ValueError: a value of another type, or a number out of range.
        """
        check_fields(self, "data.", **RANGES)

    @property
    def has_validation(self) -> bool:
        """Whether the corpus comes with a validation split."""
        return False

    @property
    def is_local(self) -> bool:
        """Whether all of it lies on this machine, so that reading it twice is cheap."""
        return True

    @property
    def is_tokenized(self) -> bool:
        """Whether chunks are token ids."""
        return False

    @property
    def end_of_text_id(self) -> int | None:
        """The id that ends a document, where chunks are token ids."""
        return None

    @property
    def default_name(self) -> str:
        """What the corpus is called where the user gives no name."""
        return type(self).__name__.lower()

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Plain data that, with the contents of `files`, determines every document."""

    def files(self, split: Split) -> list[Path]:
        """The local files that a split is read from, in order.

        Raises:
            FileNotFoundError: a path that does not exist.
            ValueError: a path with nothing in it.
        """
        return []

    @abstractmethod
    def chunks(self, split: Split) -> Iterator[Chunk]:
        """All documents of a split in a fixed order.

        Raises:
            ValueError: text that is not UTF-8, a row that is broken or without its column.
        """


def read_texts(
    dataset: "Dataset | IterableDataset", column: str, *, described: str
) -> Iterator[bytes]:
    """The UTF-8 text of each row, from a column of strings.

    Args:
        dataset: any Hugging Face dataset, read in blocks.
        column: its text.
        described: what to call the dataset in messages.

    Raises:
        ValueError: the column does not exist, or a row holds something else than a string.
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
                    "which must be text; set data.column to another, or remove the row"
                )
            yield encode_text(text, f"row {row} of {described}")
            row += 1


def _blocks(dataset: "Dataset | IterableDataset") -> Iterator[Mapping[str, list[Any]]]:
    for block in dataset.iter(batch_size=_ROWS_PER_READ):
        yield cast("Mapping[str, list[Any]]", block)


def encode_text(text: str, described: str) -> bytes:
    """UTF-8 bytes of a string.

    Raises:
        ValueError: the string holds half of a surrogate pair, which no UTF-8 text can.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{described} holds the lone surrogate {text[error.start]!r}, which is no character; "
            "mend or remove it"
        ) from None


def document_chunks(text: bytes) -> Iterator[Chunk]:
    """A whole document as chunks; none for an empty one."""
    parts = list(cut_text(text, MAX_CHUNK_BYTES))
    for number, part in enumerate(parts, start=1):
        yield Chunk(part, number == len(parts))


def cut_text(text: bytes, limit: int) -> Iterator[bytes]:
    """Parts of at most `limit` bytes that together are `text`.

    A cut falls before a run of spaces, where no token of a SentencePiece model that splits at
    white space can reach across; only where there is none, between any two characters.
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
    """Where the last word that is followed by a space ends; -1 if there is none after `start`."""
    end = text.rfind(b" ", start, stop)
    while end > start and text[end - 1] == 0x20:
        end -= 1
    return end
