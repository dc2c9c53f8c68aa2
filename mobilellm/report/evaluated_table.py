"""The evaluations of compared runs, for the terminal and the page."""

from collections.abc import Sequence

from mobilellm.evaluation.conversations.names import LOSSES
from mobilellm.report.conversation_titles import TITLES as CONVERSATION_TITLES
from mobilellm.report.evaluated_runs import EvaluatedMeasure, EvaluatedRuns
from mobilellm.report.evaluation_signals import TaskSignal
from mobilellm.report.interval_text import interval_text
from mobilellm.report.statistics import Interval
from mobilellm.units import MISSING

CAPTION = (
    "Shares in per cent, bits per byte of right answers or texts, losses in nats per token; mean ± "
    "95 % interval over seeds. S/N: standard deviation between configurations divided by that "
    "between seeds; p: of such differences if all configurations were equal."
)
WORDS = {
    "reported_accuracy": "accuracy", "accuracy": "accuracy", "bits_per_byte": "bits/byte",
    **CONVERSATION_TITLES,
}  # fmt: skip
NOT_SHARES = ("bits_per_byte", *LOSSES)
HEAD = "task"


def evaluated_heads(labels: Sequence[str]) -> list[str]:
    """Headings of the columns after the first."""
    return ["measure", "chance", *labels, "S/N", "p"]


def evaluated_rows(found: EvaluatedRuns, labels: Sequence[str]) -> list[list[str]]:
    """One row per task and measure; the first cell is the name of the task."""
    signals = {(each.task, each.measure): each for each in found.signals}
    return [
        [
            each.task,
            WORDS[each.measure],
            MISSING if each.chance is None or each.measure in NOT_SHARES
            else f"{100 * each.chance:.1f}",
            *(_mean_text(each, label) for label in labels),
            *_signal_cells(signals.get((each.task, each.measure))),
        ]
        for each in found.measures
    ]  # fmt: skip


def _mean_text(each: EvaluatedMeasure, label: str) -> str:
    interval = each.means.get(label)
    if interval is None or each.measure in NOT_SHARES:
        return interval_text(interval)
    half = interval.half_width
    return interval_text(
        Interval(100 * interval.mean, None if half is None else 100 * half, interval.count)
    )


def _signal_cells(signal: TaskSignal | None) -> list[str]:
    if signal is None:
        return [MISSING, MISSING]
    return [f"{signal.result.ratio:.2f}", f"{signal.result.p_value:.2g}"]
