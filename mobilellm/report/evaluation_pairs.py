"""Comparison of evaluated models in pairs, on the same documents, with a verdict for each pair."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mobilellm.evaluation.conversations.names import LOSSES
from mobilellm.evaluation.harness.results import TaskResult
from mobilellm.evaluation.paired import (
    PairedDifference,
    compare_correct,
    compare_means,
    compare_ratios,
    holm,
)
from mobilellm.evaluation.stored import Evaluation
from mobilellm.report.statistics import (
    BETTER,
    FAMILY_LEVEL,
    NOT_COMPARABLE,
    NOT_DISTINGUISHABLE,
    WORSE,
)

LOWER_IS_BETTER = ("bits_per_byte", *LOSSES)
MEASURES = (
    "accuracy", "accuracy_norm", "bits_per_byte", "margin",
    "intent", "structure", "rouge_l", *LOSSES,
)  # fmt: skip
"""What models are compared in."""


@dataclass(frozen=True, kw_only=True)
class MeasuredPair:
    """Two models compared in one measure of one task."""

    task: str
    measure: str
    first: str
    second: str
    difference: PairedDifference | None
    """First minus second; None if the documents differ."""
    corrected_p_value: float | None
    """Corrected for all pairs, measures and tasks together (Holm)."""
    verdict: str
    """Of the first: `better`, `worse`, `not distinguishable` or `not comparable`."""


def compare_evaluations(evaluations: Sequence[Evaluation]) -> tuple[MeasuredPair, ...]:
    """Compare every pair of models in every measure of every task that both were evaluated on.

    The chance of any wrong `better` or `worse` is at most 5 % for all of them together.
    """
    pairs = [
        pair
        for first, second in itertools.combinations(evaluations, 2)
        for task in first.tasks
        if task in second.tasks
        for pair in _pairs(task, first, second)
    ]
    tested = [index for index, pair in enumerate(pairs) if pair.difference is not None]
    p_values = [difference.p_value for pair in pairs if (difference := pair.difference)]
    for index, corrected in zip(tested, holm(p_values), strict=True):
        pairs[index] = _judged(pairs[index], corrected)
    return tuple(pairs)


def telling_measures(pairs: Sequence[MeasuredPair]) -> dict[str, dict[str, tuple[int, int]]]:
    """Count the pairs that each measure of each task tells apart.

    Returns:
        By task and measure, the pairs told apart and all pairs.
    """
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for pair in pairs:
        apart, every = found.setdefault(pair.task, {}).get(pair.measure, (0, 0))
        is_apart = pair.verdict in (BETTER, WORSE)
        found[pair.task][pair.measure] = (apart + is_apart, every + 1)
    return found


def _pairs(task: str, first: Evaluation, second: Evaluation) -> list[MeasuredPair]:
    one, other = first.tasks[task], second.tasks[task]
    left, right = one.per_document(), other.per_document()
    are_equal = _documents(one) == _documents(other)
    return [
        MeasuredPair(
            task=task, measure=measure, first=first.model, second=second.model,
            difference=_difference(measure, left[measure], right[measure]) if are_equal else None,
            corrected_p_value=None, verdict=NOT_COMPARABLE,
        )
        for measure in MEASURES
        if measure in left and measure in right
    ]  # fmt: skip


def _documents(result: TaskResult) -> tuple[object, ...]:
    """What must be equal for a comparison: the rows, and how they were put to the model."""
    names = ("documents_hash", "num_fewshot", "task_version", "max_new_tokens")
    return (result.documents, *(result.settings.get(name) for name in names))


def _difference(
    measure: str, left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray]
) -> PairedDifference | None:
    if len(left[0]) < 2:
        return None
    if measure.startswith("accuracy"):
        return compare_correct(left[0], right[0])
    if np.array_equal(left[1], right[1]):
        if np.ptp(left[1]) == 0:
            return compare_means(left[0] / left[1], right[0] / right[1])
        return compare_ratios(left[0], right[0], right[1])
    if measure != "bits_per_byte":
        # The tokenizers have other tokens, or other turns fit into the contexts of the models.
        return None
    # The bytes may differ if several answers are right.
    return compare_ratios(left[0] / left[1] * right[1], right[0], right[1])


def _judged(pair: MeasuredPair, corrected: float) -> MeasuredPair:
    verdict = NOT_DISTINGUISHABLE
    if corrected <= FAMILY_LEVEL and pair.difference is not None:
        is_lower = pair.difference.mean < 0
        verdict = BETTER if is_lower == (pair.measure in LOWER_IS_BETTER) else WORSE
    return replace(pair, corrected_p_value=corrected, verdict=verdict)


def pair_records(pairs: Sequence[MeasuredPair]) -> list[Mapping[str, object]]:
    """The comparisons as plain data."""
    return [
        {
            "task": pair.task,
            "measure": pair.measure,
            "first": pair.first,
            "second": pair.second,
            "difference": None if pair.difference is None else pair.difference.mean,
            "interval": None
            if pair.difference is None
            else [pair.difference.low, pair.difference.high],
            "p_value": None if pair.difference is None else pair.difference.p_value,
            "corrected_p_value": pair.corrected_p_value,
            "verdict": pair.verdict,
        }
        for pair in pairs
    ]
