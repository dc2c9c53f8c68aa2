"""Parquet files: one document per row."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellm.data.config import DataConfig
from mobilellm.data.source import Chunk, Split, document_chunks, encode_text
from mobilellm.data.sources.local_files import LocalFiles

_ROWS_PER_READ = 256


@dataclass(frozen=True, kw_only=True)
class ParquetFiles(LocalFiles):
    """Parquet files; the text of each document is in one column, the only one that is read."""

    column: str = "text"
    """The column with the text."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that are read from a folder."""
        return (".parquet",)

    def identity(self) -> Mapping[str, Any]:
        """The format and the column."""
        return {"format": "parquet", "column": self.column}

    def chunks(self, split: Split) -> Iterator[Chunk]:
        """All rows, file by file.

        Raises:
            ValueError: a file is not Parquet, is damaged or lacks the column, or the column or one
                of its rows is not text.
        """
        files = self.files(split)
        for file in files:
            _check_column(file, self.column)
        for file in files:
            for row, text in enumerate(_read_column(file, self.column)):
                place = f"row {row} of {file}"
                if not isinstance(text, str):
                    raise ValueError(
                        f"{place} holds {type(text).__name__} in column {self.column!r}, which "
                        "must be text; set data.column to another column, or remove the row"
                    )
                yield from document_chunks(encode_text(text, place))


@dataclass(frozen=True, kw_only=True)
class ParquetData(ParquetFiles, DataConfig):
    """Training data from local Parquet files: `data=parquet`."""


def read_parquet_rows(file: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the rows of a file with all columns, each with its location for messages.

    Raises:
        ValueError: the file is not Parquet, or is damaged.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            number = 0
            for batch in opened.iter_batches(_ROWS_PER_READ):
                for row in batch.to_pylist():
                    yield row, f"row {number} of {file}"
                    number += 1
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise ValueError(
            f"{file} is not a Parquet file, or is damaged ({_first_line(error)}); download it "
            "again, or leave it out"
        ) from error


def _check_column(file: Path, column: str) -> None:
    """Check the schema of a file: the column must exist and contain text."""
    import pyarrow
    from pyarrow import parquet, types

    try:
        schema = parquet.read_schema(file)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise ValueError(
            f"{file} is not a Parquet file ({_first_line(error)}); leave it out, or use "
            "data=text or data=jsonl"
        ) from None
    if column not in schema.names:
        raise ValueError(
            f"{file} has no column {column!r}; set data.column to one of {', '.join(schema.names)}"
        )
    kind = schema.field(column).type
    values = kind.value_type if types.is_dictionary(kind) else kind
    is_text = types.is_string(values) or types.is_large_string(values)
    # Nulls are accepted here: if such a column has a row, the row is refused later.
    if not (is_text or types.is_string_view(values) or types.is_null(values)):
        texts = [
            field.name
            for field in schema
            if field.type in (pyarrow.string(), pyarrow.large_string())
        ]
        remedy = f"one of {', '.join(texts)}" if texts else "a column of text"
        raise ValueError(
            f"{file} holds {kind} in column {column!r}, which must be text; set data.column to "
            f"{remedy}, or leave the file out"
        )


def _read_column(file: Path, column: str) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(_ROWS_PER_READ, columns=[column]):
                yield from batch.column(column).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{file} is damaged in column {column!r} ({_first_line(error)}); download it again, or "
            "leave it out"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
