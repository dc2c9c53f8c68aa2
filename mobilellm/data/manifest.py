"""What a data folder was made from and what is in it, so that it is reused only for the same."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobilellm.data.config import DataConfig
from mobilellm.data.source import SPLITS
from mobilellm.data.tokenizer import check_tokenizer_file
from mobilellm.files import TOKENIZER_FILE, write_text_atomically
from mobilellm.strict_json import find_fault, to_json

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
INPUTS = "inputs.json"
TOKENIZER = TOKENIZER_FILE

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


def describe_inputs(config: DataConfig, known: Mapping[str, Any] | None = None) -> Record:
    """Plain data that says what a preparation rests on: options, files, tokenizer.

    Files are told apart by their contents. One that a former description lists with the same
    path, size and time of change is taken to be the same without reading it again.

    Args:
        config: what is to be prepared.
        known: a former description.

    Raises:
        FileNotFoundError: a path that does not exist.
        ValueError: a path with nothing in it.
    """
    hashes = {
        (file["path"], file["bytes"], file["modified_ns"]): file["hash"]
        for files in (known or {}).get("files", {}).values()
        for file in files
    }
    files = {
        split: [_describe_file(path, hashes) for path in config.files(split)] for split in SPLITS
    }
    options = config.preparation()
    if config.tokenizer is not None:
        path = Path(config.tokenizer)
        check_tokenizer_file(path)
        before = (known or {}).get("options", {}).get("tokenizer_sample_megabytes")
        if before is not None and has_tokenizer(config.folder, path):
            # The one that was trained for this very folder, given by name.
            options["tokenizer_sample_megabytes"] = before
        else:
            files["tokenizer"] = [_describe_file(path, hashes)]
    elif not config.is_tokenized:
        options["tokenizer_sample_megabytes"] = config.tokenizer_sample_megabytes
    return {"version": FORMAT_VERSION, "options": options, "files": files}


def has_tokenizer(folder: Path, tokenizer: Path) -> bool:
    """Whether a finished data folder was made with the tokenizer in this file."""
    own = folder / TOKENIZER
    is_finished = (folder / MANIFEST).is_file() and own.is_file()
    return is_finished and own.read_bytes() == tokenizer.read_bytes()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two descriptions, for a reader; empty where the same would be made."""
    found = []
    if old.get("version") != new["version"]:
        found.append("it was prepared by another version of mobilellm")
    before, after = _flat(old.get("options", {})), _flat(new["options"])
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            found.append(f"{key} was {before.get(key)}, now {after.get(key)}")
    for split in sorted(old.get("files", {}).keys() | new["files"].keys()):
        found += _file_differences(
            split, old.get("files", {}).get(split, []), new["files"].get(split, [])
        )
    return found


def read_manifest(folder: Path) -> Record | None:
    """What is in a finished data folder; None where nothing finished is there.

    Raises:
        ValueError: it is damaged, with the field.
    """
    return _read_record(folder / MANIFEST, _MANIFEST_FIELDS)


def read_inputs(folder: Path) -> Record | None:
    """What a data folder is made from; None where none was begun.

    Fields may be missing, which is other input: nothing finished rests on this file.

    Raises:
        ValueError: it is damaged, with the field.
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
    """The error for a file of a data folder that is not as it was written."""
    folder = path.parent if path.parent.name not in SPLITS else path.parent.parent
    return ValueError(f"{path} is damaged ({fault}); remove {folder} to prepare the data again")


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_text_atomically(path, to_json(record, indent=1) + "\n")


def _describe_file(path: Path, hashes: Mapping[tuple[str, int, int], str]) -> Record:
    status = path.stat()
    key = (str(path.absolute()), status.st_size, status.st_mtime_ns)
    return {
        "path": key[0],
        "bytes": key[1],
        "modified_ns": key[2],
        "hash": hashes.get(key) or _hash_file(path),
    }


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _flat(options: Mapping[str, Any], prefix: str = "data.") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            flat |= _flat({str(i): item for i, item in enumerate(value)}, f"{prefix}{key}.")
        else:
            flat[prefix + str(key)] = value
    return flat


def _file_differences(split: str, old: list[Record], new: list[Record]) -> list[str]:
    """Contents and their order count, names and places do not."""
    if [file["hash"] for file in old] == [file["hash"] for file in new]:
        return []
    if len(old) != len(new):
        return [f"data.{split} had {len(old)} files, now {len(new)}"]
    changed = [b["path"] for a, b in zip(old, new, strict=True) if a["hash"] != b["hash"]]
    more = f" and {len(changed) - 1} more files" if len(changed) > 1 else ""
    return [f"data.{split}: {changed[0]}{more} has other contents"]
