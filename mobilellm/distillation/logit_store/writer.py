"""Write a logit store shard by shard; after an interruption, continue it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from mobilellm.distillation.logit_store.manifest import (
    INPUTS,
    MANIFEST,
    LogitInputs,
    has_shard,
    read_record,
    shard_path,
    write_record,
)
from mobilellm.distillation.logit_store.packing import Packing
from mobilellm.distillation.losses.targets import TopK
from mobilellm.files import atomic_write, is_temporary, remove_temporary_files

# The lock file of the process that writes a store.
LOCK = ".lock"
# Captured probability is summed in integer units of 1 / _PARTS, so that any order gives equal sums.
_PARTS = 1_000_000
_BINS = 1_000
# Tokens per read of a finished shard.
_BLOCK_TOKENS = 1 << 14


class LogitWriter:
    """Writes the missing shards of a store, then its manifest.

    The bytes depend only on the inputs and on the appended tokens, not on interruptions.

    Args:
        folder: created if it does not exist; an unfinished store with the same inputs is continued.
        inputs: inputs of the store.

    Raises:
        ValueError: the folder has a store with other inputs, or other files.
    """

    def __init__(self, folder: str | Path, inputs: LogitInputs) -> None:
        """Record the inputs."""
        self.folder = Path(folder)
        self.inputs = inputs
        check_folder(self.folder, inputs)
        self.folder.mkdir(parents=True, exist_ok=True)
        if read_record(self.folder / INPUTS) is None:
            write_record(self.folder / INPUTS, {"inputs": inputs.to_dict()})
        self._shards: dict[int, ShardStatistics] = {}

    @property
    def missing(self) -> list[int]:
        """Indices of the shards that are not written yet."""
        return [n for n in range(self.inputs.num_shards) if not self._has(n)]

    @contextmanager
    def shard(self, number: int) -> "Iterator[ShardWriter]":
        """Context in which the tokens of a shard's windows are appended in order.

        The file appears when the context ends.

        Raises:
            ValueError: the number of appended tokens is not that of the shard's windows.
        """
        path = shard_path(self.folder, number)
        size = len(self.inputs.windows_of(number)) * self.inputs.window_bytes
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            writer = ShardWriter(file, self.inputs.codec)
            yield writer
            if writer.statistics.size != size:
                raise ValueError(
                    f"shard {number} got {writer.statistics.size} bytes instead of {size}; append "
                    f"all tokens of windows {self.inputs.windows_of(number)}"
                )
        self._shards[number] = writer.statistics

    def finish(self) -> dict[str, Any]:
        """Finish the store: write its manifest and return it.

        Raises:
            ValueError: shards are missing.
        """
        if self.missing:
            raise ValueError(f"shards {self.missing} are missing; write them before the manifest")
        statistics = [
            self._shards.get(n) or self._compute_statistics(n)
            for n in range(self.inputs.num_shards)
        ]
        counts = np.sum([one.counts for one in statistics], axis=0)
        num_tokens = self.inputs.num_windows * self.inputs.sequence_length
        manifest = {
            "inputs": self.inputs.to_dict(),
            "num_tokens": num_tokens,
            "bytes_per_token": self.inputs.codec.bytes_per_token,
            "bytes": sum(one.size for one in statistics),
            "captured_mass": {
                "mean": sum(one.mass for one in statistics) / _PARTS / num_tokens,
                "percentile_5": int(np.searchsorted(counts.cumsum(), 0.05 * num_tokens)) / _BINS,
            },
            "shards": [{"bytes": one.size, "hash": one.digest.hexdigest()} for one in statistics],
        }
        remove_temporary_files(self.folder)
        write_record(self.folder / MANIFEST, manifest)
        return manifest

    def _has(self, number: int) -> bool:
        return number in self._shards or has_shard(self.folder, self.inputs, number)

    def _compute_statistics(self, number: int) -> "ShardStatistics":
        """The statistics of a shard that an earlier process wrote."""
        statistics = ShardStatistics(self.inputs.codec)
        block = _BLOCK_TOKENS * self.inputs.codec.bytes_per_token
        with shard_path(self.folder, number).open("rb") as file:
            while part := file.read(block):
                statistics.add(part)
        return statistics


class ShardStatistics:
    """Size, hash and captured probability of a shard, computed from its bytes.

    Args:
        codec: the encoding of its tokens.
    """

    def __init__(self, codec: Packing) -> None:
        """Start with an empty shard."""
        self.codec = codec
        self.size = 0
        self.digest = hashlib.blake2b(digest_size=16)
        self.mass = 0
        """Captured probability, summed over tokens, in millionths."""
        self.counts = np.zeros(_BINS + 1, np.int64)
        """Histogram of the captured probability of tokens, in bins of a thousandth."""

    def add(self, data: bytes) -> None:
        """Add the bytes of further tokens."""
        self.size += len(data)
        self.digest.update(data)
        packed = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        top = self.codec.decode(packed.view(-1, self.codec.bytes_per_token))
        mass = top.log_probabilities.exp().sum(-1)
        parts = (mass.clamp(max=1.0).double() * _PARTS).round().long()
        self.mass += int(parts.sum())
        self.counts += np.bincount((parts // (_PARTS // _BINS)).numpy(), minlength=_BINS + 1)


class ShardWriter:
    """Appends tokens to a shard.

    Args:
        file: file of the shard, open for writing.
        codec: the encoding of its tokens.
    """

    def __init__(self, file: BinaryIO, codec: Packing) -> None:
        """Start an empty shard."""
        self.file = file
        self.statistics = ShardStatistics(codec)

    def append(self, top: TopK) -> None:
        """Write the next tokens.

        Args:
            top: (tokens, k), on any device.

        Raises:
            ValueError: a probability is NaN.
        """
        if bool(top.log_probabilities.isnan().any()):
            raise ValueError(
                "the teacher's logits contain NaN; check its weights, or run it with "
                "teacher_precision=float32"
            )
        data = self.statistics.codec.encode(top).cpu().numpy().tobytes()
        self.file.write(data)
        self.statistics.add(data)


def check_folder(folder: Path, inputs: LogitInputs) -> None:
    """Check that a store can be written to a folder; nothing is changed.

    Raises:
        ValueError: the folder has a store with other inputs, or other files.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out={folder} is a file; choose a folder")
    known = read_record(folder / MANIFEST) or read_record(folder / INPUTS)
    if known is not None:
        changes = inputs.differences(known["inputs"])
        if changes:
            raise ValueError(
                f"{folder} holds a logit store made from other inputs: {'; '.join(changes)}; "
                "choose another folder (out=…), or remove that folder"
            )
        return
    others = [] if not folder.is_dir() else [path.name for path in folder.iterdir()]
    others = [name for name in others if name != LOCK and not is_temporary(name, INPUTS)]
    if others:
        raise ValueError(
            f"out={folder} holds other files, such as {min(others)}; choose a new or empty folder"
        )
