"""Parquet files: one row, one document."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mobilellm.data.config import DataConfig
from mobilellm.data.local_files import LocalFiles
from mobilellm.data.source import Piece, Split, document_pieces, read_texts

if TYPE_CHECKING:
    from datasets import IterableDataset


@dataclass(frozen=True, kw_only=True)
class ParquetFiles(LocalFiles):
    """Parquet files, one document each row from a column of strings; no other column is read."""

    column: str = "text"
    """The column of the text."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of the files taken from a folder."""
        return (".parquet",)

    def identity(self) -> Mapping[str, Any]:
        """The format and the column."""
        return {"format": "parquet", "column": self.column}

    def dataset(self, split: Split) -> "IterableDataset":
        """Rows of the column alone.

        Raises:
            ValueError: a file that is no Parquet or is without the column.
        """
        import pyarrow
        import pyarrow.parquet
        from datasets import load_dataset

        files = self.files(split)
        for file in files:
            try:
                columns = pyarrow.parquet.read_schema(file).names
            except pyarrow.ArrowInvalid as error:
                raise ValueError(
                    f"{file} is no Parquet file ({str(error).splitlines()[0]}); leave it out, or "
                    "use data=text or data=jsonl"
                ) from None
            if self.column not in columns:
                raise ValueError(
                    f"{file} has no column {self.column!r}; set data.column to one of "
                    f"{', '.join(columns)}"
                )
        return load_dataset(
            "parquet",
            data_files=[str(file) for file in files],
            split="train",
            streaming=True,
            columns=[self.column],
        )

    def pieces(self, split: Split) -> Iterator[Piece]:
        """All rows, file by file."""
        for text in read_texts(self.dataset(split), self.column, described=f"data.{split}"):
            yield from document_pieces(text)


@dataclass(frozen=True, kw_only=True)
class ParquetData(ParquetFiles, DataConfig):
    """Training data from local Parquet files: `data=parquet`."""
