"""Prepared data of prompted sequences, and the questions for measuring the accuracy of a student.

The stream of a split contains, for each row and each of its tasks, the prompt and then the target
with an end-of-text token. Each prompt and each target is a document of the stream. The index of a
sequence determines its task.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobilellm.data.manifest import damaged
from mobilellm.data.prepared import PreparedData
from mobilellm.data.source import Split
from mobilellm.data.sources.rationales import TASKS, Task
from mobilellm.strict_json import find_fault

if TYPE_CHECKING:
    from mobilellm.data.packing import PackedDataset

CHOICES = "choices.json"
"""File with the tokens of the answer choices of all validation rows."""


@dataclass(frozen=True)
class Question:
    """A question of the validation split, in tokens."""

    prompt: NDArray[Any]
    """(tokens,)"""
    label: NDArray[Any]
    """The correct answer, including the end-of-text token, (tokens,)."""
    choices: tuple[NDArray[Any], ...]
    """Answers to choose from, each like `label`; empty if any text may be the answer."""


class PreparedPrompts(PreparedData):
    """A data folder of prompted sequences.

    Args:
        folder: a folder in which `prepare_data` has finished.
        tasks: the tasks to train on, some or all of those in the folder; validation always uses
            labels only.
    """

    def __init__(self, folder: Path, tasks: Sequence[Task] = TASKS) -> None:
        """Read the manifest."""
        super().__init__(folder)
        self.tasks = tuple(tasks)

    def bounds(self, split: Split) -> NDArray[np.int64]:
        """Offsets of the prompt, the target and the end of each sequence (sequences, 3)."""
        stream = self.tokens(split)
        starts = np.append(stream.document_starts().astype(np.int64), len(stream))
        return np.stack([starts[:-1:2], starts[1::2], starts[2::2]], axis=1)

    def windows(
        self, split: Split, sequence_length: int, *, document_mask: bool = False
    ) -> "PackedDataset":
        """Whole sequences packed into windows, with attention always limited to one sequence.

        Raises:
            ValueError: a sequence is longer than `sequence_length`.
        """
        from mobilellm.data.packing import PackedDataset

        bounds, tasks = self.bounds(split), self._tasks(split)
        trained = self.tasks if split == "train" else ("label",)
        taken = np.isin(tasks, [TASKS.index(task) + 1 for task in trained])
        return PackedDataset(
            self.tokens(split),
            bounds[taken],
            tasks[taken],
            sequence_length,
            padding=self.eos_token_id,
        )

    def questions(self, most: int | None = None) -> list[Question]:
        """The questions of all validation rows, or of at most `most` rows, spread evenly."""
        stream = self.tokens("validation")
        rows = self.bounds("validation")[self._tasks("validation") == TASKS.index("label") + 1]
        choices = self._choices(len(rows))
        count = len(rows) if most is None else min(most, len(rows))
        return [
            Question(
                stream[start:target],
                stream[target:end],
                tuple(np.array(tokens) for tokens in choices[row]),
            )
            for row in (index * len(rows) // count for index in range(count))
            for start, target, end in [rows[row].tolist()]
        ]

    def _choices(self, num_rows: int) -> list[list[list[int]]]:
        """The tokens of the answer choices of each validation row."""
        path = self.dir / CHOICES
        try:
            choices = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise damaged(path, str(error)) from None
        fault = find_fault({"rows": choices}, {"rows": [[[int]]]})
        if fault or len(choices) != num_rows:
            raise damaged(path, fault or f"it has {len(choices)} rows, not {num_rows}")
        return choices

    def _tasks(self, split: Split) -> NDArray[np.int64]:
        """The number of the task of each sequence, (sequences,), counted from 1."""
        numbers = [TASKS.index(task) + 1 for task in self.manifest["tasks"]]
        return np.tile(numbers, self.manifest["splits"][split]["documents"])
