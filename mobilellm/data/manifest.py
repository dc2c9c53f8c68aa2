"""Read and write the two JSON files of a data folder: its inputs, and its manifest."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobilellm.data.source import SPLITS
from mobilellm.data.tokenizers.opening import (
    TOKENIZER_FILES,
    is_tokenizer_json,
    open_tokenizer,
)
from mobilellm.files import TOKENIZER_JSON, write_text_atomically
from mobilellm.strict_json import find_fault, to_json

MANIFEST = "manifest.json"
INPUTS = "inputs.json"

Record = dict[str, Any]

_FILE = {"path": str, "bytes": int, "modified_ns": int, "hash": str}
_INPUT_FIELDS = {"options": {}, "files": {split: [_FILE] for split in SPLITS}}
_HASH = (str, type(None))
_MANIFEST_FIELDS = {
    "inputs": _INPUT_FIELDS,
    "vocab_size": int,
    "eos_token_id": int,
    "shard_tokens": int,
    "splits": {split: {"documents": int, "tokens": int} for split in SPLITS},
    "hashes": {"data": str, "train": str, "validation": str, "tokenizer": _HASH},
    "baselines": {
        "unigram_nats_per_token": float, "bigram_nats_per_token": float
    },
}  # fmt: skip


def has_tokenizer(folder: Path, tokenizer: Path) -> bool:
    """Whether a data folder is finished and was made with the tokenizer in the given file."""
    own = own_tokenizer_file(folder)
    if own is None or not (folder / MANIFEST).is_file():
        return False
    if own.read_bytes() == tokenizer.read_bytes():
        return True
    # The copy of a tokenizer.json in the folder of a model may have another begin of text.
    if own.name != TOKENIZER_JSON or not is_tokenizer_json(tokenizer):
        return False
    return open_tokenizer(own).fingerprint() == open_tokenizer(tokenizer).fingerprint()


def own_tokenizer_file(folder: Path) -> Path | None:
    """The tokenizer in a data folder, which has at most one; None if it has none."""
    paths = (folder / name for name in TOKENIZER_FILES)
    return next((path for path in paths if path.is_file()), None)


def read_manifest(folder: Path) -> Record | None:
    """The manifest of a finished data folder; None if the folder is not finished.

    Raises:
        ValueError: the file is damaged; the message names the field.
    """
    return _read_record(folder / MANIFEST, _MANIFEST_FIELDS)


def read_inputs(folder: Path) -> Record | None:
    """The recorded inputs of a data folder, finished or not; None if there are none.

    Fields may be missing: such inputs differ from any complete ones.

    Raises:
        ValueError: the file is damaged; the message names the field.
    """
    return _read_record(folder / INPUTS, _INPUT_FIELDS, is_whole=False)


def _read_record(path: Path, fields: Mapping[str, Any], *, is_whole: bool = True) -> Record | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from None
    if not is_whole and isinstance(record, dict):
        fields = {key: kind for key, kind in fields.items() if key in record}
    fault = find_fault(record, fields)
    if fault:
        raise damaged(path, fault)
    return record


def damaged(path: Path, fault: str) -> ValueError:
    """The error for a damaged file of a data folder."""
    folder = path.parent if path.parent.name not in SPLITS else path.parent.parent
    return ValueError(f"{path} is damaged ({fault}); remove {folder} to prepare the data again")


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_text_atomically(path, to_json(record, indent=1) + "\n")
