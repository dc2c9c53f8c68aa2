"""The files of a logit store and what they record about its inputs.

A store is a folder with `inputs.json`, written first; shards `00000.logits`, … of whole windows,
each written atomically; and `manifest.json`, written last.
"""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mobilellm.command_names import command_for
from mobilellm.distillation.logit_store.packing import Packing
from mobilellm.files import write_text_atomically
from mobilellm.strict_json import find_fault

INPUTS = "inputs.json"
MANIFEST = "manifest.json"
FORMAT = "mobilellm-logits"
VERSION = 1
METHODS = ("top_k", "sampled")


@dataclass(frozen=True, kw_only=True)
class LogitInputs:
    """Everything that determines the bytes of a store, except the number type chosen by `auto`.

    Raises:
        ValueError: a number is below 1, or the settings are invalid for `Packing`.
    """

    data_hash: str
    """Hash of the tokens of the training split."""
    tokenizer_hash: str | None
    """Hash of the tokenizer; None if the data were given as token ids without one."""
    teacher_hash: str
    """Hash of the configuration and weights of the teacher."""
    vocab_size: int
    sequence_length: int
    """Tokens per window."""
    document_mask: bool
    """Whether attention is limited to the tokens of one document."""
    k: int
    precision: str
    packing: str
    temperature: float
    """The logits of the teacher were divided by it."""
    num_windows: int
    """Windows of the training split."""
    windows_per_shard: int
    """Windows in every shard except the last, which may have fewer."""
    teacher_precision: str = "auto"
    """The number type that was requested for the teacher."""
    method: str = "top_k"
    """`top_k`: the k most likely tokens; `sampled`: k random tokens (`losses.sampling`)."""
    seed: int | None = None
    """Seed of the samples; None for `top_k`."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("sequence_length", "num_windows", "windows_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be positive")
        check_method(self.method, self.seed)
        self.codec  # noqa: B018 - checks k, precision and packing

    @property
    def codec(self) -> Packing:
        """The encoding of a token."""
        return Packing(
            vocab_size=self.vocab_size,
            k=self.k,
            precision=self.precision,
            packing=self.packing,
            is_sample=self.is_sampled,
        )

    @property
    def is_sampled(self) -> bool:
        """Whether the tokens are random samples."""
        return self.method == "sampled"

    @property
    def window_bytes(self) -> int:
        """Bytes per window."""
        return self.sequence_length * self.codec.bytes_per_token

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.num_windows // self.windows_per_shard)

    def windows_of(self, shard: int) -> range:
        """The windows of a shard."""
        first = shard * self.windows_per_shard
        return range(first, min(first + self.windows_per_shard, self.num_windows))

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def differences(self, known: Mapping[str, Any]) -> list[str]:
        """The differences from the recorded inputs of a folder, as text for users."""
        # Stores that were made before there were samples do not record how tokens were chosen.
        known = {"method": "top_k", "seed": None} | dict(known)
        changed = [name for name, value in self.to_dict().items() if known.get(name) != value]
        if changed != ["windows_per_shard"]:
            # By default, the number of windows per shard follows from the other inputs.
            changed = [name for name in changed if name != "windows_per_shard"]
        return [f"{name} was {known.get(name)}, now {getattr(self, name)}" for name in changed]


def check_method(method: str, seed: int | None) -> None:
    """Check how tokens are chosen.

    Raises:
        ValueError: the method is unknown, a sample has no valid seed, or a seed has no effect.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not known; use one of {', '.join(METHODS)}")
    if method == "top_k" and seed is not None:
        raise ValueError(
            f"seed={seed} has no effect with method=top_k, which draws nothing; leave it out"
        )
    is_seed = isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0
    if method == "sampled" and not is_seed:
        raise ValueError(f"method=sampled needs a seed of at least 0, but seed={seed}; give seed=0")


def shard_path(folder: Path, shard: int) -> Path:
    """The file of a shard."""
    return folder / f"{shard:05d}.logits"


def has_shard(folder: Path, inputs: LogitInputs, shard: int) -> bool:
    """Whether the shard exists and has the right size."""
    path = shard_path(folder, shard)
    size = len(inputs.windows_of(shard)) * inputs.window_bytes
    return path.is_file() and path.stat().st_size == size


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a JSON file of a logit store; None if the file is missing or does not belong to one.

    Raises:
        ValueError: it is damaged or has another version.
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
            f"{path} has version {record.get('version')}, but this program reads {VERSION}; "
            f"make the store again with {command_for('prepare_logits')}"
        )
    fault = find_fault(record, {"inputs": {}})
    if fault:
        raise damaged(path, fault)
    return record


def read_inputs(record: Mapping[str, Any], path: Path) -> LogitInputs:
    """The inputs in a record of a store.

    Args:
        record: a record that `read_record` returned.
        path: path of its file, for messages.

    Raises:
        ValueError: a field is missing, unknown or of another type.
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
    """The error for a damaged record of a store."""
    return ValueError(
        f"{path} is damaged ({fault}); remove it and make the store again with "
        f"{command_for('prepare_logits')}"
    )


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    text = json.dumps({"format": FORMAT, "version": VERSION, **record}, indent=1, allow_nan=False)
    write_text_atomically(path, text + "\n")
