"""JSON lines: one object per line, one document per object."""

import codecs
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellm.data.config import DataConfig
from mobilellm.data.source import Chunk, Split, document_chunks, encode_text
from mobilellm.data.sources.file_reading import (
    COMPRESSED,
    describe_not_utf8,
    read_blocks,
    split_lines,
)
from mobilellm.data.sources.local_files import LocalFiles

_NAMES = (".jsonl", ".ndjson")
JSON_LINES = (*_NAMES, *(name + packed for name in _NAMES for packed in COMPRESSED))
"""Suffixes of files with JSON lines."""


class JsonlRows(LocalFiles):
    """Files of JSON lines, which may be compressed (`.jsonl.gz`, `.jsonl.zst`)."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that are read from a folder."""
        return JSON_LINES


@dataclass(frozen=True, kw_only=True)
class JsonlFiles(JsonlRows):
    """Files of JSON lines; the text of each document is the string under one key."""

    column: str = "text"
    """The key of the text in each object."""

    def identity(self) -> Mapping[str, Any]:
        """The format and the column."""
        return {"format": "jsonl", "column": self.column}

    def chunks(self, split: Split) -> Iterator[Chunk]:
        """All documents, file by file.

        Raises:
            ValueError: a line is not a JSON object or lacks the key; the message names the line.
        """
        for text, place in read_column(self.files(split), self.column):
            if not isinstance(text, str):
                raise ValueError(
                    f"{place} holds {type(text).__name__} in column {self.column!r}, which must be "
                    "text; set data.column to another column, or correct the line"
                )
            yield from document_chunks(encode_text(text, place))


@dataclass(frozen=True, kw_only=True)
class JsonlData(JsonlFiles, DataConfig):
    """Training data from local JSON lines: `data=jsonl`."""


def read_column(files: Sequence[Path], column: str) -> Iterator[tuple[Any, str]]:
    """Yield the values under a key, each with its location for messages; skip blank lines.

    Raises:
        ValueError: a line is not UTF-8, not a JSON object, or lacks the key.
    """
    for row, place in read_rows(files):
        if column not in row:
            raise ValueError(
                f"{place} has no column {column!r}; set data.column to one of "
                f"{', '.join(row) or 'its keys (it has none)'}, or correct the line"
            )
        yield row[column], place


def read_rows(files: Sequence[Path]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the objects, each with its location for messages; skip blank lines.

    Raises:
        ValueError: a line is not UTF-8 or not a JSON object.
    """
    for file in files:
        is_first = True
        for number, line in enumerate(split_lines(read_blocks(file)), start=1):
            if line.strip():
                yield _parse(line, file, number, is_first=is_first), f"{file} line {number}"
                is_first = False


def _parse(line: bytes, file: Path, number: int, *, is_first: bool) -> dict[str, Any]:
    place = f"{file} line {number}"
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{place} is not UTF-8: byte 0x{line[error.start]:02x} at its column "
            f"{error.start + 1}; {describe_not_utf8(line if is_first else b'')}"
        ) from None
    except json.JSONDecodeError as error:
        remedy = _remedy_for_other_json(line) if is_first else None
        raise ValueError(
            f"{place} is not JSON ({error.msg} at column {error.colno}); "
            + (remedy or "correct or remove the line")
        ) from None
    except RecursionError:
        raise ValueError(
            f"{place} holds lists or objects nested too deeply to be read; correct or remove the "
            "line"
        ) from None
    except ValueError as error:
        # Python refuses integers with thousands of digits.
        reason = str(error).partition(";")[0]
        raise ValueError(f"{place} cannot be read ({reason}); correct or remove the line") from None
    if not isinstance(row, dict):
        remedy = _remedy_for_other_json(line) if is_first else None
        raise ValueError(
            f"{place} is a JSON {type(row).__name__}, which must be an object such as "
            f'{{"text": "…"}}; ' + (remedy or "correct or remove the line")
        )
    return row


def _remedy_for_other_json(first: bytes) -> str | None:
    """What to do if the first line of a file shows that it is JSON, but not JSON lines."""
    begin = first.removeprefix(codecs.BOM_UTF8).strip()
    if begin.startswith(b"["):
        return "the file is a JSON array: write one element per line, as `jq -c '.[]'` does"
    if begin == b"{":
        return "an object extends over several lines: write one object per line, as `jq -c .` does"
    return None
