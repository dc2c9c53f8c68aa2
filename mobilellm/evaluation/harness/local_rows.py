"""Rows of a task from local files: FOLDER/<task>/<split>.jsonl, one JSON object a line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobilellm.data.sources.jsonl import read_rows

SUFFIX = ".jsonl"
SPLITS = ("training_split", "validation_split", "test_split")

Rows = list[dict[str, Any]]


def local_splits(folder: Path, task: str) -> dict[str, Path]:
    """The files of a task by the name of their split; empty if the folder has none."""
    return {path.stem: path for path in sorted((folder / task).glob(f"*{SUFFIX}"))}


def local_overrides(
    folder: Path, task: str, config: Mapping[str, Any], *, num_fewshot: int = 0
) -> dict[str, Any] | None:
    """The settings of a harness task that make it read local rows.

    Args:
        folder: of all tasks.
        task: name of the task.
        config: its configuration in the harness, which names its splits.
        num_fewshot: number of solved examples before each question.

    Returns:
        Settings that replace those of the task; None if the folder has no files for it.

    Raises:
        ValueError: a file is not JSON lines, the split that the task evaluates is missing, or few-
            shot examples are wanted and the split that they come from is missing.
    """
    files = local_splits(folder, task)
    if not files:
        return None
    evaluated = config.get("test_split") or config.get("validation_split")
    if evaluated not in files:
        raise ValueError(
            f"{folder / task} has {_listed(files)}, but {task} is evaluated on the split "
            f"{evaluated}; add {evaluated}{SUFFIX}"
        )
    source = _fewshot_split(config)
    if num_fewshot and source not in files:
        raise ValueError(
            f"{folder / task} has {_listed(files)}, but few-shot examples of {task} come from the "
            f"split {source}; add {source}{SUFFIX}, or use --num-fewshot 0"
        )
    rows = {split: _rows(path) for split, path in files.items()}

    def dataset(**_: Any) -> Any:
        from datasets import Dataset, DatasetDict  # slow to import

        return DatasetDict({split: Dataset.from_list(found) for split, found in rows.items()})

    missing = {name: None for name in SPLITS if config.get(name) not in files}
    return {"custom_dataset": dataset, "dataset_kwargs": {}, **missing}


def _rows(path: Path) -> Rows:
    """The rows of a file of JSON lines.

    Raises:
        ValueError: a line is not a JSON object, or there is none.
    """
    rows = [row for row, _ in read_rows([path])]
    if not rows:
        raise ValueError(f"{path} has no rows; add at least one line")
    return rows


def _fewshot_split(config: Mapping[str, Any]) -> str | None:
    """The split from which the harness draws few-shot examples."""
    own = config.get("fewshot_split") or (config.get("fewshot_config") or {}).get("split")
    return own or next((config[name] for name in SPLITS if config.get(name)), None)


def _listed(files: Mapping[str, Path]) -> str:
    return ", ".join(path.name for path in files.values())
