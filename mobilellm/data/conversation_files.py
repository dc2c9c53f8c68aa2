"""Reads the conversations of files, for an evaluation."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mobilellm.data.conversations.layouts import Layout, read_conversation
from mobilellm.data.conversations.turns import Conversation
from mobilellm.data.prepared_conversations import TRAINED_FUNCTIONS, VALIDATION_ROWS
from mobilellm.data.sources.jsonl import JSON_LINES, read_rows
from mobilellm.data.sources.local_files import find_files
from mobilellm.data.sources.parquet import read_parquet_rows


@dataclass(frozen=True)
class HeldOut:
    """Conversations for an evaluation."""

    conversations: tuple[Conversation, ...]
    trained_functions: frozenset[str] | None
    """Names of the functions in the training data; None: unknown."""


def read_held_out(path: Path, layout: Layout, field: str) -> HeldOut:
    """Read conversations for an evaluation.

    Args:
        path: a file, a pattern, or a folder as `read_conversations` reads it; or a folder that
            `prepare_data` made of `data=conversations`, of which the validation conversations and
            the names of the functions in its training data are read.
        layout: see `read_conversation`.
        field: name of the setting, for messages.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: a row is not a conversation, or there is none.
    """
    if not (path / VALIDATION_ROWS).is_file():
        return HeldOut(read_conversations(path, layout, field), None)
    names = json.loads((path / TRAINED_FUNCTIONS).read_text(encoding="utf-8"))
    return HeldOut(read_conversations(path / VALIDATION_ROWS, layout, field), frozenset(names))


def read_conversations(path: Path, layout: Layout, field: str) -> tuple[Conversation, ...]:
    """Read all conversations of JSON lines or Parquet files.

    Args:
        path: a file, a pattern, or a folder with such files.
        layout: see `read_conversation`.
        field: name of the setting, for messages.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: a row is not a conversation, or there is none.
    """
    found = tuple(_conversations(path, layout, field))
    if not found:
        raise ValueError(f"{field}={path} has no conversations; give at least one row")
    return found


def _conversations(path: Path, layout: Layout, field: str) -> Iterator[Conversation]:
    for file in find_files(str(path), (*JSON_LINES, ".parquet"), field):
        rows = read_parquet_rows(file) if file.suffix == ".parquet" else read_rows([file])
        for row, place in rows:
            yield read_conversation(row, layout, place)
