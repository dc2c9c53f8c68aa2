"""Read the top-k probabilities of a teacher from disk, by window."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilellm.command_names import command_for
from mobilellm.distillation.logit_store.manifest import (
    INPUTS,
    MANIFEST,
    damaged,
    has_shard,
    read_inputs,
    read_record,
    shard_path,
)
from mobilellm.distillation.losses.targets import TopK
from mobilellm.strict_json import find_fault

_FIELDS = {
    "num_tokens": int,
    "bytes_per_token": int,
    "bytes": int,
    "captured_mass": {"mean": float, "percentile_5": float},
    "shards": [{"bytes": int, "hash": str}],
}


def is_logit_store(folder: str | Path) -> bool:
    """Whether a folder holds a logit store, even if it is not complete."""
    folder = Path(folder)
    return any(read_record(folder / name) is not None for name in (MANIFEST, INPUTS))


class LogitStore:
    """A logit store made by `mobilellm prepare-logits`; windows can be read in any order.

    A store can be pickled; the process that unpickles it opens the files itself.

    Args:
        folder: folder of the store.

    Raises:
        FileNotFoundError: there is no store, or one of its files is missing.
        ValueError: the store is not finished, or a file has the wrong size.
    """

    def __init__(self, folder: str | Path) -> None:
        """Check that all files exist; no probabilities are read yet."""
        self.folder = Path(folder)
        record = read_record(self.folder / MANIFEST)
        if record is None:
            raise self._unfinished_error()
        self.manifest: dict[str, Any] = record
        """The inputs and the contents of the store, as plain data."""
        self.inputs = read_inputs(record, self.folder / MANIFEST)
        fault = find_fault(record, _FIELDS)
        if fault or len(record["shards"]) != self.inputs.num_shards:
            raise damaged(self.folder / MANIFEST, fault or f"{len(record['shards'])} shards")
        self.codec = self.inputs.codec
        self._maps: dict[int, NDArray[np.uint8]] = {}
        for shard in range(self.inputs.num_shards):
            self._check_shard(shard)

    @property
    def vocab_size(self) -> int:
        """Vocabulary size of the teacher."""
        return self.inputs.vocab_size

    @property
    def sequence_length(self) -> int:
        """Tokens per window."""
        return self.inputs.sequence_length

    @property
    def temperature(self) -> float:
        """The logits of the teacher were divided by it."""
        return self.inputs.temperature

    def __len__(self) -> int:
        """Number of windows."""
        return self.inputs.num_windows

    def read(self, windows: Tensor | Sequence[int]) -> TopK:
        """Read the probabilities of some windows.

        Args:
            windows: indices (batch,) of windows of the training data.

        Returns:
            (batch, seq, k), on the CPU.

        Raises:
            IndexError: a window does not exist.
        """
        numbers = windows.tolist() if isinstance(windows, Tensor) else list(windows)
        packed = np.empty((len(numbers), self.inputs.window_bytes), np.uint8)
        for row, window in zip(packed, numbers, strict=True):
            row[:] = self._window(window)
        shape = (len(numbers), self.sequence_length, self.codec.bytes_per_token)
        return self.codec.decode(torch.from_numpy(packed).view(shape), temperature=self.temperature)

    def check(
        self,
        *,
        vocab_size: int,
        sequence_length: int,
        document_mask: bool,
        data_hash: str,
        tokenizer_hash: str | None,
        teacher_hash: str | None = None,
        temperature: float | None = None,
    ) -> None:
        """Check that the store was made for this student and this data.

        Args:
            vocab_size: vocabulary size of the student.
            sequence_length: tokens per window.
            document_mask: whether attention is limited to the tokens of one document.
            data_hash: hash of the tokens of the training split.
            tokenizer_hash: hash of the tokenizer; None if the data were given as token ids.
            teacher_hash: hash of the expected teacher; None accepts any.
            temperature: expected temperature; None accepts any.

        Raises:
            ValueError: the store was made for something else; the message says for what.
        """
        mine = self.inputs
        if vocab_size != mine.vocab_size:
            raise self._mismatch_error(
                f"a teacher with vocab_size={mine.vocab_size}, not {vocab_size}",
                f"use a student with vocab_size={mine.vocab_size}",
            )
        if None not in (tokenizer_hash, mine.tokenizer_hash) and (
            tokenizer_hash != mine.tokenizer_hash
        ):
            raise self._mismatch_error("another tokenizer", "prepare the data with the teacher's")
        if data_hash != mine.data_hash:
            raise self._mismatch_error("other training data", "train on that data")
        self.check_windows(sequence_length=sequence_length, document_mask=document_mask)
        if teacher_hash not in (None, mine.teacher_hash):
            raise self._mismatch_error("another teacher", "use the store of this teacher")
        if temperature not in (None, mine.temperature):
            raise self._mismatch_error(
                f"temperature={mine.temperature:g}, not {temperature:g}",
                "use the same temperature",
            )

    def check_windows(self, *, sequence_length: int, document_mask: bool) -> None:
        """Check the windows, before any data are read.

        Args:
            sequence_length: tokens per window.
            document_mask: whether attention is limited to the tokens of one document.

        Raises:
            ValueError: the store was made for other windows; the message says for which.
        """
        mine = self.inputs
        if sequence_length != mine.sequence_length:
            raise self._mismatch_error(
                f"windows of {mine.sequence_length} tokens, not of {sequence_length}",
                f"use sequence_length={mine.sequence_length}",
            )
        if document_mask != mine.document_mask:
            raise self._mismatch_error(
                f"data.document_mask={str(mine.document_mask).lower()}",
                "use the same value in training",
            )

    def verify(self) -> None:
        """Check the hashes of all shards.

        Raises:
            ValueError: a file has changed; the message names it.
        """
        for shard, facts in enumerate(self.manifest["shards"]):
            path = shard_path(self.folder, shard)
            with path.open("rb") as file:
                found = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
            if found.hexdigest() != facts["hash"]:
                raise ValueError(
                    f"{path} has changed since it was written; remove it and {MANIFEST}, and run "
                    f"the same {command_for('prepare_logits')} command again"
                )

    def __getstate__(self) -> dict[str, Any]:
        """The state without the open files."""
        return {**self.__dict__, "_maps": {}}

    def _window(self, window: int) -> NDArray[np.uint8]:
        if not 0 <= window < len(self):
            raise IndexError(f"window {window} does not exist; {self.folder} has {len(self)}")
        shard, index = divmod(window, self.inputs.windows_per_shard)
        if shard not in self._maps:
            path = shard_path(self.folder, shard)
            self._maps[shard] = np.asarray(np.memmap(path, np.uint8, mode="r"))
        size = self.inputs.window_bytes
        return self._maps[shard][index * size : (index + 1) * size]

    def _mismatch_error(self, what: str, remedy: str) -> ValueError:
        return ValueError(
            f"the logit store {self.folder} was made with {what}; {remedy}, or make another store "
            f"with {command_for('prepare_logits')}"
        )

    def _check_shard(self, shard: int) -> None:
        path, size = shard_path(self.folder, shard), self.manifest["shards"][shard]["bytes"]
        remedy = f"remove {MANIFEST} and run the same {command_for('prepare_logits')} command again"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; {remedy}")
        if path.stat().st_size != size:
            raise ValueError(
                f"{path} has {path.stat().st_size} bytes and must have {size}; {remedy}"
            )

    def _unfinished_error(self) -> FileNotFoundError | ValueError:
        record = read_record(self.folder / INPUTS)
        if record is None:
            what = "is empty" if _is_empty(self.folder) else "holds no logit store"
            what = what if self.folder.is_dir() else "does not exist"
            return FileNotFoundError(
                f"{self.folder} {what}; make a store with {command_for('prepare_logits')}"
            )
        inputs = read_inputs(record, self.folder / INPUTS)
        done = sum(has_shard(self.folder, inputs, shard) for shard in range(inputs.num_shards))
        return ValueError(
            f"the logit store {self.folder} is not finished: it holds {done} of "
            f"{inputs.num_shards} shards; run the same {command_for('prepare_logits')} command "
            "again to continue"
        )


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())
