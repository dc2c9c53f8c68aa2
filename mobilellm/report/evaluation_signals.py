"""Which measures of which tasks tell shapes apart, given several seeds of each shape."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mobilellm.evaluation.conversations.names import LOSSES
from mobilellm.evaluation.signal_to_noise import SignalToNoise, signal_to_noise

MEASURES = (
    "accuracy", "accuracy_norm", "reported_accuracy", "bits_per_byte", "margin",
    "intent", "structure", "rouge_l", *LOSSES,
)  # fmt: skip


@dataclass(frozen=True)
class TaskSignal:
    """Signal and noise of one measure of one task."""

    task: str
    measure: str
    result: SignalToNoise
    chance: float | None
    """Accuracy of a random choice; None for a text."""
    mean: float
    """Of the measure over all runs."""


def task_signals(runs: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[TaskSignal, ...]:
    """Compute the signal-to-noise ratio of each measure of each task and text.

    Args:
        runs: for each its shape, and the summary of its evaluation (`Evaluation.record`). Runs of
            one shape differ in the seed only.

    Returns:
        The highest ratio first; nothing without two shapes, one of which has two seeds. A task is
        left out if the runs were evaluated on different documents of it.
    """
    values: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    chances: dict[str, float | None] = {}
    documents: dict[str, set[Any]] = defaultdict(set)
    for shape, record in runs:
        for task, results in _entries(record):
            chances[task] = results.get("chance")
            documents[task].add(_documents(results))
            for measure in MEASURES:
                if results.get(measure) is not None:
                    values[task, measure][shape].append(results[measure])
    found = []
    for (task, measure), by_shape in values.items():
        result = signal_to_noise(by_shape)
        if result is not None and len(documents[task]) == 1:
            every = [value for of_shape in by_shape.values() for value in of_shape]
            mean = sum(every) / len(every)
            found.append(TaskSignal(task, measure, result, chances[task], mean))
    return tuple(sorted(found, key=lambda signal: -signal.result.ratio))


def _entries(record: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for kind in ("tasks", "groups", "text"):
        yield from (record.get(kind) or {}).items()


def _documents(results: Mapping[str, Any]) -> Any:
    settings = results.get("settings") or {}
    return settings.get("documents_hash"), results.get("documents"), results.get("windows")
