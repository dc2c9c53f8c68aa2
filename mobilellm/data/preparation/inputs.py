"""Describe the inputs of prepared data, so that a folder is reused for the same inputs only."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobilellm.data.manifest import Record, has_tokenizer
from mobilellm.data.resolved import ResolvedData
from mobilellm.data.source import SPLITS
from mobilellm.data.tokenizers import check_tokenizer_file

FORMAT_VERSION = 1


def describe_inputs(data: ResolvedData, known: Mapping[str, Any] | None = None) -> Record:
    """The inputs of a preparation as plain data: options, files and tokenizer.

    Files are identified by hashes of their contents. If an earlier description has a file with the
    same path, size and modification time, its hash is reused without reading the file.

    Args:
        data: the data to prepare.
        known: an earlier description.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a path has no files.
    """
    hashes = {
        (file["path"], file["bytes"], file["modified_ns"]): file["hash"]
        for files in (known or {}).get("files", {}).values()
        for file in files
    }
    config = data.config
    files: dict[str, list[Record]] = {
        split: [_describe_file(path, hashes) for path in config.files(split)] for split in SPLITS
    }
    options = data.options()
    if config.tokenizer is not None:
        path = Path(config.tokenizer)
        check_tokenizer_file(path)
        before = (known or {}).get("options", {}).get("tokenizer_sample_megabytes")
        if before is not None and has_tokenizer(data.folder, path):
            # The given tokenizer is the one that was trained for this folder.
            options["tokenizer_sample_megabytes"] = before
        else:
            files["tokenizer"] = [_describe_file(path, hashes)]
    elif not config.is_tokenized:
        options["tokenizer_sample_megabytes"] = config.tokenizer_sample_megabytes
    return {"version": FORMAT_VERSION, "options": options, "files": files}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The differences between two descriptions, as text for users; empty if they are equal."""
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
    """Differences in the contents of files and their order; names and folders do not matter."""
    if [file["hash"] for file in old] == [file["hash"] for file in new]:
        return []
    if len(old) != len(new):
        return [f"data.{split} had {len(old)} files, now {len(new)}"]
    changed = [b["path"] for a, b in zip(old, new, strict=True) if a["hash"] != b["hash"]]
    more = f" and {len(changed) - 1} more files" if len(changed) > 1 else ""
    return [f"data.{split}: {changed[0]}{more} has different contents"]
