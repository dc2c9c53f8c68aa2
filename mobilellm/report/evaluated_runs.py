"""What the runs of a comparison achieved on benchmark tasks, from their evaluation.json."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mobilellm.evaluation.conversations.names import LOSSES, OF_CALLS
from mobilellm.evaluation.stored import read_evaluation
from mobilellm.report.evaluation_signals import TaskSignal, task_signals
from mobilellm.report.run_groups import RunGroup
from mobilellm.report.statistics import Interval, mean_interval

MEASURES = (
    "reported_accuracy", "accuracy", "bits_per_byte", *OF_CALLS, "rouge_1", "rouge_l", *LOSSES,
)  # fmt: skip
"""What is shown of each task; `accuracy` only without `reported_accuracy`."""


@dataclass(frozen=True)
class EvaluatedMeasure:
    """One measure of one task, for all configurations that were evaluated."""

    task: str
    measure: str
    means: Mapping[str, Interval]
    """Mean and interval over the seeds, by label of the configuration."""
    chance: float | None


@dataclass(frozen=True)
class EvaluatedRuns:
    """The results of all runs that were evaluated."""

    measures: tuple[EvaluatedMeasure, ...]
    signals: tuple[TaskSignal, ...]
    """Signal-to-noise ratios over the configurations and their seeds."""
    num_runs: int


def evaluated_runs(groups: Sequence[RunGroup]) -> EvaluatedRuns | None:
    """Read the evaluations of the runs of all configurations.

    Args:
        groups: the configurations.

    Returns:
        None if no run was evaluated.

    Raises:
        ValueError: a file is damaged.
    """
    records = [
        (group.label, record)
        for group in groups
        for run in group.runs
        if (record := read_evaluation(run.folder)) is not None
    ]
    if not records:
        return None
    found = [
        EvaluatedMeasure(task, measure, _means(records, task, measure), _chance(records, task))
        for task in dict.fromkeys(task for _, record in records for task in _entries(record))
        for measure in _shown(records, task)
    ]
    return EvaluatedRuns(tuple(found), task_signals(records), len(records))


def evaluated_record(groups: Sequence[RunGroup]) -> dict[str, Any] | None:
    """The evaluations as plain data; None if no run was evaluated."""
    found = evaluated_runs(groups)
    return None if found is None else asdict(found)


def _means(
    records: Sequence[tuple[str, Mapping[str, Any]]], task: str, measure: str
) -> dict[str, Interval]:
    values: dict[str, list[float]] = {}
    for label, record in records:
        value = _entries(record).get(task, {}).get(measure)
        if value is not None:
            values.setdefault(label, []).append(value)
    return {label: mean_interval(found) for label, found in values.items()}


def _shown(records: Sequence[tuple[str, Mapping[str, Any]]], task: str) -> list[str]:
    known = {name for _, record in records for name in _entries(record).get(task, {})}
    hidden = {"accuracy"} if "reported_accuracy" in known else set()
    return [measure for measure in MEASURES if measure in known - hidden]


def _chance(records: Sequence[tuple[str, Mapping[str, Any]]], task: str) -> float | None:
    return next(
        (c for _, r in records if (c := _entries(r).get(task, {}).get("chance")) is not None), None
    )


def _entries(record: Mapping[str, Any]) -> dict[str, Any]:
    return {**record.get("tasks", {}), **record.get("groups", {}), **record.get("text", {})}
