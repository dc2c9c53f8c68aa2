"""Reads the texts that models are evaluated on."""

import json
from pathlib import Path


def read_text(path: Path) -> list[str]:
    """The text of a file, or the documents of a file of JSON lines.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, not UTF-8, or a line has no field `text`.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"--text {path} is not a file; give a file of text or of JSON lines"
        )
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".jsonl":
        documents = [content]
    else:
        lines = enumerate(content.split("\n"), start=1)
        documents = [_document(path, number, line) for number, line in lines if line.strip()]
    if not any(document.strip() for document in documents):
        raise ValueError(f"--text {path} is empty; give a file with text")
    return documents


def _document(path: Path, number: int, line: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {number}: {error}; each line must be JSON") from None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise ValueError(
            f'{path}, line {number} has no field text; each line must be like {{"text": "…"}}'
        )
    return row["text"]
