"""Plain text files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellm.data.config import DataConfig
from mobilellm.data.source import Chunk, Split
from mobilellm.data.sources.documents import compile_rule, read_documents
from mobilellm.data.sources.jsonl import JSON_LINES
from mobilellm.data.sources.local_files import LocalFiles


@dataclass(frozen=True, kw_only=True)
class TextFiles(LocalFiles):
    """UTF-8 text files; line ends are kept.

    Raises:
        ValueError: `document` is not a regular expression.
    """

    document: str = "file"
    """The rule for documents.

    `file`: each file, unchanged. `line`: each line that is not blank, without its line end.
    `blank_line`: the text between blank lines, without its last line end. Any other value is a
    regular expression: a line whose start it matches begins a document, and no text is left out.
    For WikiText, `^ = [^=].* = $` matches the titles of articles.
    """

    def __post_init__(self) -> None:
        """Check the regular expression."""
        self.check_values()
        compile_rule(self.document)
        super().__post_init__()

    def identity(self) -> Mapping[str, Any]:
        """The format, and the rule for documents."""
        return {"format": "text", "document": self.document}

    def files(self, split: Split) -> list[Path]:
        """The files of a split.

        Raises:
            ValueError: all of them have JSON lines, by their names: their braces and keys would be
                read as text.
        """
        files = super().files(split)
        if files and all(file.name.endswith(JSON_LINES) for file in files):
            raise ValueError(
                f"data.{split}: {files[0]} has JSON lines, and data=text would read them as they "
                "are; use data=jsonl, or rename the file to .txt if that is what you want"
            )
        return files

    def chunks(self, split: Split) -> Iterator[Chunk]:
        """All documents, one file after another."""
        yield from read_documents(self.files(split), self.document)


@dataclass(frozen=True, kw_only=True)
class TextData(TextFiles, DataConfig):
    """Training data from local text files: `data=text`."""
