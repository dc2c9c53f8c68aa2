"""What a logit store was made from, and where its parts lie.

A store is a folder with `inputs.json`, there from the start; shards `00000.logits`, … of whole
windows, each there whole or not at all; and `manifest.json`, written last.
"""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mobilellm.distillation.logit_store.packing import Packing
from mobilellm.files import write_text_atomically
from mobilellm.strict_json import find_fault

INPUTS = "inputs.json"
MANIFEST = "manifest.json"
FORMAT = "mobilellm-logits"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class LogitInputs:
    """All that a store's bytes rest on, but for the number type in which the teacher ran.

    Raises:
        ValueError: see `Packing`; numbers below 1.
    """

    data_hash: str
    """Of the tokens of the training split."""
    tokenizer_hash: str | None
    """None where the data came as token ids without one."""
    teacher_hash: str
    """Of its configuration and weights."""
    vocab_size: int
    sequence_length: int
    """Tokens per window."""
    document_mask: bool
    """Whether documents that share a window could see each other: False, they could."""
    k: int
    precision: str
    packing: str
    temperature: float
    """The teacher's logits were divided by it."""
    num_windows: int
    """All windows of the training split."""
    windows_per_shard: int
    """In every shard but the last."""
    teacher_precision: str = "auto"
    """In which the teacher was asked to run."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("sequence_length", "num_windows", "windows_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be positive")
        self.codec  # noqa: B018 - checks k, precision and packing

    @property
    def codec(self) -> Packing:
        """How tokens are written."""
        return Packing(
            vocab_size=self.vocab_size, k=self.k, precision=self.precision, packing=self.packing
        )

    @property
    def window_bytes(self) -> int:
        """Bytes of one window."""
        return self.sequence_length * self.codec.bytes_per_token

    @property
    def num_shards(self) -> int:
        """Files."""
        return -(-self.num_windows // self.windows_per_shard)

    def windows_of(self, shard: int) -> range:
        """The windows of a shard."""
        first = shard * self.windows_per_shard
        return range(first, min(first + self.windows_per_shard, self.num_windows))

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def differences(self, known: Mapping[str, Any]) -> list[str]:
        """What differs from the inputs that a folder records, for a reader."""
        changed = [name for name, value in self.to_dict().items() if known.get(name) != value]
        if changed != ["windows_per_shard"]:
            # It follows from the others, unless it was given.
            changed = [name for name in changed if name != "windows_per_shard"]
        return [f"{name} was {known.get(name)}, now {getattr(self, name)}" for name in changed]


def shard_path(folder: Path, shard: int) -> Path:
    """The file of a shard."""
    return folder / f"{shard:05d}.logits"


def has_shard(folder: Path, inputs: LogitInputs, shard: int) -> bool:
    """Whether that shard is there with the size that it should have."""
    path = shard_path(folder, shard)
    size = len(inputs.windows_of(shard)) * inputs.window_bytes
    return path.is_file() and path.stat().st_size == size


def read_record(path: Path) -> dict[str, Any] | None:
    """A JSON file of a logit store; None where there is none, or it belongs to something else.

    Raises:
        ValueError: damaged, or of another version.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        return None
    if record.get("version") != VERSION:
        raise ValueError(
            f"{path} is of version {record.get('version')}, this is version {VERSION}; make the "
            "store again with scripts/prepare_logits.py"
        )
    fault = find_fault(record, {"inputs": {}})
    if fault:
        raise damaged(path, fault)
    return record


def read_inputs(record: Mapping[str, Any], path: Path) -> LogitInputs:
    """The inputs that a record of a store names.

    Args:
        record: what `read_record` gave.
        path: its file, for messages.

    Raises:
        ValueError: a field is missing, or not of its kind.
    """
    inputs = record["inputs"]
    known = {field.name: field for field in fields(LogitInputs)}
    required = {
        name: field.type
        for name, field in known.items()
        if field.default is MISSING or name in inputs
    }
    fault = find_fault(inputs, required, "inputs")
    unknown = [name for name in inputs if name not in known]
    if fault or unknown:
        raise damaged(path, fault or f"inputs.{unknown[0]} is not known")
    try:
        return LogitInputs(**inputs)
    except ValueError as error:
        raise damaged(path, str(error)) from None


def damaged(path: Path, fault: str) -> ValueError:
    """The error for a record of a store that is not as it was written."""
    return ValueError(
        f"{path} is damaged ({fault}); remove it and make the store again with "
        "scripts/prepare_logits.py"
    )


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    text = json.dumps({"format": FORMAT, "version": VERSION, **record}, indent=1, allow_nan=False)
    write_text_atomically(path, text + "\n")
