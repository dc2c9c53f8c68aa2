"""Prompted sequences that are ready for training, and the questions that a student is asked.

A split's stream holds, for each row and task in turn, a prompt and its target, with an end-of-text
token after the target. Where prompts and targets begin are the stream's document starts; which
task a sequence belongs to follows from its number.
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
"""Tokens of the validation rows' answer choices."""


@dataclass(frozen=True)
class Question:
    """What a student is asked after training, in tokens."""

    prompt: NDArray[Any]
    """(tokens,)"""
    label: NDArray[Any]
    """The right answer, end of text included, (tokens,)."""
    choices: tuple[NDArray[Any], ...]
    """Answers to choose from, each as `label`; empty: any text may be the answer."""


class PreparedPrompts(PreparedData):
    """A data folder of prompted sequences.

    Args:
        folder: with a finished preparation.
        tasks: which of the tasks in it are trained; validation is on labels alone.
    """

    def __init__(self, folder: Path, tasks: Sequence[Task] = TASKS) -> None:
        """Read the manifest."""
        super().__init__(folder)
        self.tasks = tuple(tasks)

    def bounds(self, split: Split) -> NDArray[np.int64]:
        """Where each sequence's prompt and target begin and where it ends, (sequences, 3)."""
        stream = self.tokens(split)
        starts = np.append(stream.document_starts().astype(np.int64), len(stream))
        return np.stack([starts[:-1:2], starts[1::2], starts[2::2]], axis=1)

    def windows(
        self, split: Split, sequence_length: int, *, document_mask: bool = False
    ) -> "PackedDataset":
        """Whole sequences packed into windows, isolated from each other in any case.

        Raises:
            ValueError: a sequence longer than `sequence_length`.
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
        """The validation rows, or `most` of them spread evenly."""
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
        """Tokens of each validation row's choices."""
        path = self.dir / CHOICES
        try:
            choices = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise damaged(path, str(error)) from None
        fault = find_fault({"rows": choices}, {"rows": [[[int]]]})
        if fault or len(choices) != num_rows:
            raise damaged(path, fault or f"it is of {len(choices)} rows, not of {num_rows}")
        return choices

    def _tasks(self, split: Split) -> NDArray[np.int64]:
        """Number of each sequence's task (sequences,)."""
        numbers = [TASKS.index(task) + 1 for task in self.manifest["tasks"]]
        return np.tile(numbers, self.manifest["splits"][split]["documents"])
