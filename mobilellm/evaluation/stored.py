"""The results of a model in its folder: evaluation.json, and the documents' scores beside it."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobilellm.evaluation.harness.results import TaskResult, from_plain, to_plain
from mobilellm.files import write_text_atomically
from mobilellm.strict_json import to_json

logger = logging.getLogger(__name__)

EVALUATION = "evaluation.json"
"""The summary: one object as `mobilellm evaluate --format json` prints it."""
DOCUMENTS = "evaluation_documents.json"
"""The scores of every document, for comparisons in pairs and to continue an evaluation."""
LOCK = ".evaluation.lock"
FORMAT = 1
MEASURES = (
    "accuracy", "accuracy_norm", "reported_accuracy", "bits_per_byte", "margin", "chance",
)  # fmt: skip
"""What is averaged over the tasks of a group. `reported_accuracy` is accuracy_norm for the tasks
for which the harness reports acc_norm, and accuracy for the others."""


@dataclass(kw_only=True)
class Evaluation:
    """All results of one model."""

    model: str
    """Its folder, as the user gave it."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the results depend on: hash, parameters, protocol, versions."""
    tasks: dict[str, TaskResult] = field(default_factory=dict)
    """By name of the task, with `:5-shot` or `:chat` appended if it was evaluated in that way."""
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the tasks of each group."""
    text: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By file, the record of its `TextScore`."""

    def record(self) -> dict[str, Any]:
        """The summary as plain data."""
        tasks = {name: result.record() for name, result in self.tasks.items()}
        return {
            "format": FORMAT,
            "model": self.model,
            **self.facts,
            "tasks": tasks,
            "groups": {
                name: group_record([tasks[each] for each in members if each in tasks])
                for name, members in self.groups.items()
                if any(each in tasks for each in members)
            },
            "text": self.text,
        }


def group_record(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the tasks of a group, each task counted equally.

    Args:
        tasks: records of the tasks, at least one.
    """
    record: dict[str, Any] = {
        "tasks": len(tasks), "documents": sum(task["documents"] for task in tasks)
    }  # fmt: skip
    for name in MEASURES:
        values = [task[name] for task in tasks if name in task]
        if len(values) < len(tasks):
            continue
        mean = sum(values) / len(values)
        record[name] = mean
        halves = [
            (task[f"{name}_interval"][1] - task[f"{name}_interval"][0]) / 2
            for task in tasks if f"{name}_interval" in task
        ]  # fmt: skip
        if len(halves) == len(tasks):
            half = sum(each**2 for each in halves) ** 0.5 / len(tasks)
            record[f"{name}_interval"] = [mean - half, mean + half]
    return record


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """Read the summary in a folder; None if there is none.

    Raises:
        ValueError: the file is not JSON, or not an evaluation.
    """
    path = folder / EVALUATION
    if not path.is_file():
        return None
    content = _json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(
            f"{path} is not an evaluation of format {FORMAT}; remove it, and evaluate again"
        )
    return content


def read_documents(folder: Path) -> dict[str, TaskResult]:
    """Read the scores of the documents of each task in a folder; empty if there are none.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / DOCUMENTS
    if not path.is_file():
        return {}
    try:
        return {name: from_plain(each) for name, each in _json(path)["tasks"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it, and evaluate again") from error


def save_evaluation(folder: Path, evaluation: Evaluation) -> list[str]:
    """Add results to those that a folder has.

    A task that was evaluated before on more documents keeps its result, and so does a text that was
    evaluated before on more tokens than the first windows of it now. A trial with few documents or
    windows thus overwrites nothing. Results of other weights are replaced.

    Args:
        folder: of a run or a model; created if it does not exist.
        evaluation: the new results.

    Returns:
        Names of the tasks and texts whose earlier results were kept.

    Raises:
        ValueError: a file in the folder is damaged.
    """
    from filelock import FileLock  # takes 0.1 s to import

    folder.mkdir(parents=True, exist_ok=True)
    # Two commands may evaluate one model on different tasks at the same time.
    with FileLock(folder / LOCK):
        return _merge(folder, evaluation)


def _merge(folder: Path, evaluation: Evaluation) -> list[str]:
    before = read_evaluation(folder) or {}
    is_same = before.get("model_hash") == evaluation.facts.get("model_hash")
    documents = read_documents(folder) if is_same else {}
    kept = [
        name
        for name, result in evaluation.tasks.items()
        if name in documents and documents[name].documents > result.documents
    ]
    texts = before.get("text", {}) if is_same else {}
    kept += [name for name, text in evaluation.text.items() if _is_trial(text, texts.get(name))]
    tasks = {**documents, **{n: r for n, r in evaluation.tasks.items() if n not in kept}}
    groups = {k: tuple(v) for k, v in before.get("group_members", {}).items() if is_same}
    merged = Evaluation(
        model=evaluation.model,
        facts=evaluation.facts,
        tasks=tasks,
        groups={**groups, **evaluation.groups},
        text={**texts, **{n: text for n, text in evaluation.text.items() if n not in kept}},
    )
    content = {"tasks": {name: to_plain(result) for name, result in tasks.items()}}
    write_text_atomically(folder / DOCUMENTS, to_json(content, indent=None) + "\n")
    record = merged.record() | {"group_members": merged.groups}
    write_text_atomically(folder / EVALUATION, to_json(record, ensure_ascii=False) + "\n")
    return kept


def _is_trial(text: Mapping[str, Any], before: Mapping[str, Any] | None) -> bool:
    """Whether a text was evaluated in part, and before on more tokens.

    A result on the whole text replaces any other: the file, or the protocol, may have changed.
    """
    if before is None or text["windows"] >= text["all_windows"]:
        return False
    return before["tokens"] > text["tokens"]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); remove it, and evaluate again") from error
