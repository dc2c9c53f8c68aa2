"""Reads the texts that models are evaluated on."""

from pathlib import Path

from mobilellm.data.sources.file_reading import read_utf8
from mobilellm.data.sources.jsonl import JSON_LINES, read_rows


def has_documents(path: Path) -> bool:
    """Whether a file has one document a line, by its name."""
    return path.name.endswith(JSON_LINES)


def read_text(path: Path) -> list[str]:
    """The text of a file, or the documents of a file of JSON lines; both may be compressed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, damaged or not UTF-8, or a line has no field `text`.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"--text {path} is not a file; give a file of text or of JSON lines"
        )
    if has_documents(path):
        documents = [_text(row, place) for row, place in read_rows([path])]
    else:
        documents = [b"".join(read_utf8(path)).decode()]
    if not any(document.strip() for document in documents):
        raise ValueError(f"--text {path} is empty; give a file with text")
    return documents


def _text(row: dict[str, object], place: str) -> str:
    text = row.get("text")
    if not isinstance(text, str):
        raise ValueError(f'{place} has no field text; each line must be like {{"text": "…"}}')
    return text
