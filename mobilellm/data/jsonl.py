"""JSON lines: one object a line, one document an object."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.data.config import DataConfig
from mobilellm.data.local_files import LocalFiles, open_binary
from mobilellm.data.source import Piece, Split, document_pieces, encode_text

if TYPE_CHECKING:
    from datasets import IterableDataset


class JsonlRows(LocalFiles):
    """Files of JSON lines (also `.gz`)."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of the files taken from a folder."""
        return (".jsonl", ".ndjson", ".jsonl.gz")


@dataclass(frozen=True, kw_only=True)
class JsonlFiles(JsonlRows):
    """Files of JSON lines, one document each from a column of strings."""

    column: str = "text"
    """The key of the text."""

    def identity(self) -> Mapping[str, Any]:
        """The format and the column."""
        return {"format": "jsonl", "column": self.column}

    def dataset(self, split: Split) -> "IterableDataset":
        """Rows of `text` (bytes), which is UTF-8."""
        from datasets import IterableDataset

        return IterableDataset.from_generator(
            _text_rows, gen_kwargs={"files": tuple(self.files(split)), "column": self.column}
        )

    def pieces(self, split: Split) -> Iterator[Piece]:
        """All documents, file by file.

        Raises:
            ValueError: a line that is no JSON object or is without the column, with its place.
        """
        for row in self.dataset(split):
            yield from document_pieces(row["text"])


@dataclass(frozen=True, kw_only=True)
class JsonlData(JsonlFiles, DataConfig):
    """Training data from local JSON lines: `data=jsonl`."""


def read_column(files: Sequence[Path], column: str) -> Iterator[tuple[Any, str]]:
    """The values under a key, each with its place for messages; blank lines are skipped.

    Raises:
        ValueError: a line that is not UTF-8, no JSON object, or without the key.
    """
    for row, place in read_rows(files):
        if column not in row:
            raise ValueError(
                f"{place} has no column {column!r}; set data.column to one of "
                f"{', '.join(row) or 'its keys (it has none)'}, or mend the line"
            )
        yield row[column], place


def read_rows(files: Sequence[Path]) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects, each with its place for messages; blank lines are skipped.

    Raises:
        ValueError: a line that is not UTF-8 or no JSON object.
    """
    for file in files:
        with open_binary(file) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    place = f"{file} line {number}"
                    yield _parse(line, place), place


def _parse(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{place} is not UTF-8: byte 0x{line[error.start]:02x} at its column "
            f"{error.start + 1}; convert the file, for instance with iconv"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{place} is not JSON ({error.msg} at column {error.colno}); mend or remove the line"
        ) from None
    if not isinstance(row, dict):
        raise ValueError(
            f"{place} is a JSON {type(row).__name__}, which must be an object such as "
            '{"text": "…"}; mend or remove the line'
        )
    return row


def _text_rows(files: Sequence[Path], column: str) -> Iterator[dict[str, Any]]:
    for text, place in read_column(files, column):
        if not isinstance(text, str):
            raise ValueError(
                f"{place} holds {type(text).__name__} in column {column!r}, which must be text; "
                "set data.column to another, or mend the line"
            )
        yield {"text": encode_text(text, place)}
