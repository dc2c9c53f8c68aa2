"""Training data of rationales, from local JSON lines or from the hub."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm.data.config import DataConfig
from mobilellm.data.source import Split
from mobilellm.data.sources.hub import HubRows
from mobilellm.data.sources.jsonl import JsonlRows, read_rows
from mobilellm.data.sources.rationales import TASKS, Rationales, Task

# Options that have an effect on running text only, with their defaults.
_WITHOUT_EFFECT = {
    "add_eos": (None, True), "document_mask": (False,), "max_megabytes": (None,),
    "workers": (None,),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RationaleConfig(Rationales, DataConfig):
    """Settings for converting rows to prompted sequences, and the tasks to train on.

    Raises:
        ValueError: a task is unknown, the rows have no rationales for the rationale task, or an
            option has no effect.
    """

    tasks: Sequence[Task] = TASKS
    """Tasks to train on: `label`, or `label` and `rationale`. The prepared data are the same."""

    def __post_init__(self) -> None:
        """Check the tasks."""
        self.check_values()
        object.__setattr__(self, "tasks", tuple(self.tasks))
        for task in self.tasks:
            if task not in TASKS:
                nearest = sorted(
                    TASKS, key=lambda t: -difflib.SequenceMatcher(None, t, str(task)).ratio()
                )
                raise ValueError(f"data.tasks has {task!r}, which must be {' or '.join(nearest)}")
        if "label" not in self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(
                f"data.tasks=[{','.join(self.tasks)}] must contain label, and no task twice; use "
                "[label] or [label,rationale]"
            )
        if "rationale" in self.tasks and self.rationale_column is None:
            raise ValueError(
                "data.tasks contains rationale, but data.rationale_column=null: the rows have no "
                "rationales; set data.rationale_column, or use data.tasks=[label]"
            )
        for name, defaults in _WITHOUT_EFFECT.items():
            if getattr(self, name) not in defaults:
                raise ValueError(
                    f"data.{name}={getattr(self, name)} has no effect on prompted sequences, which "
                    "are whole, isolated and end with the end-of-text token; leave it out"
                )
        super().__post_init__()

    @property
    def always_ends(self) -> bool:
        """True: a target without an end would have no last token to learn."""
        return True


@dataclass(frozen=True, kw_only=True)
class RationaleData(JsonlRows, RationaleConfig):
    """Rationales in local JSON lines: `data=rationales`."""

    def identity(self) -> Mapping[str, Any]:
        """The format, the columns and the prompts."""
        return {"format": "rationales", **self.layout}

    def rows(self, split: Split) -> Iterator[tuple[Mapping[str, Any], str]]:
        """The lines, file by file."""
        return read_rows(self.files(split))


@dataclass(frozen=True, kw_only=True)
class HubRationaleData(HubRows, RationaleConfig):
    """Rationales in a hub dataset, or in a local folder like one: `data=rationales_hub`."""

    def identity(self) -> Mapping[str, Any]:
        """The settings that identify the rows, and the columns and the prompts."""
        return {**super().identity(), **self.layout}

    def rows(self, split: Split) -> Iterator[tuple[Mapping[str, Any], str]]:
        """The rows in the dataset's order."""
        name = self.train_split if split == "train" else self.validation_split
        for number, row in enumerate(self.dataset(split)):
            yield row, f"row {number} of {self.dataset_name} {name}"
