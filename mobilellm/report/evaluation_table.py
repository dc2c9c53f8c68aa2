"""The results of evaluated models in the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from mobilellm.evaluation.conversations.names import TASKS
from mobilellm.evaluation.harness.results import is_share
from mobilellm.evaluation.stored import Evaluation
from mobilellm.report.conversation_table import conversation_tables
from mobilellm.report.conversation_titles import TITLES as CONVERSATION_TITLES
from mobilellm.report.evaluation_pairs import MEASURES, MeasuredPair, telling_measures
from mobilellm.report.evaluation_signals import TaskSignal
from mobilellm.report.measure_text import measure_text
from mobilellm.report.statistics import BETTER, NOT_COMPARABLE, WORSE
from mobilellm.report.table import COLOUR, WideTable
from mobilellm.units import MISSING

TITLES = {
    "accuracy": "accuracy",
    "accuracy_norm": "norm.",
    "accuracy_bytes": "by bytes",
    "accuracy_unconditional": "uncond.",
    "exact_match": "exact match",
    "prompt_level_strict_acc": "strict",
    "prompt_level_loose_acc": "loose",
    "bits_per_byte": "bits/byte",
    "margin": "margin",
}
"""Heading of each measure."""

MAX_DETAILED = 6
"""The most models of which all measures are shown; of more, `FEW_TITLES`."""
FEW_TITLES = ("accuracy", "accuracy_norm", "exact_match", "bits_per_byte")

SIGNALS = (
    "S/N: standard deviation between the means of the shapes, divided by that between seeds. p: of "
    "such differences if all shapes were equal, for each row alone."
)
EXPLANATION = (
    "Accuracies in per cent, with intervals of 95 % over documents; tied answers count as "
    "fractions. norm., by bytes, uncond.: answers compared by log-likelihood per character, per "
    "byte, and minus that without the question. bits/byte: of the right answer. margin: its "
    "probability minus that of the best wrong answer."
)


def evaluation_report(
    evaluations: Sequence[Evaluation],
    pairs: Sequence[MeasuredPair] = (),
    signals: Sequence[TaskSignal] = (),
    notes: Sequence[str] = (),
    *,
    names: Mapping[str, str] | None = None,
) -> RenderableType:
    """Return the tables: what tells the models apart, then the results, then notes.

    Args:
        evaluations: of all models.
        pairs: their comparisons in pairs.
        signals: signal-to-noise ratios over shapes and seeds.
        notes: sentences below the tables.
        names: a short name for each model, by its path; default: the end of the path.
    """
    names = names or short_names([evaluation.model for evaluation in evaluations])
    parts: list[RenderableType] = []
    if pairs:
        parts += _apart(pairs, names)
    if signals:
        parts += [Text("Signal-to-noise ratio over shapes and seeds", style="bold")]
        parts += [signal_table(signals), Text(SIGNALS, style="dim"), Text()]
    records = [evaluation.record() for evaluation in evaluations]
    parts += conversation_tables(records, names)
    parts += _results(records, names, "tasks")
    parts += _results(records, names, "groups")
    parts += _texts(records, names)
    if any(set(record["tasks"]) - set(TASKS) for record in records):
        parts.append(Text(EXPLANATION, style="dim"))
    parts += _protocols(records, names)
    parts += [Text.assemble(("note:", "yellow"), f" {note}") for note in notes]
    return Group(*parts)


def _protocols(
    records: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> list[RenderableType]:
    """How each model read texts, in one line if all read them alike."""
    found = {names[r["model"]]: r["protocol"] for r in records if "protocol" in r}
    if len(set(found.values())) == 1:
        return [Text(f"Protocol: {next(iter(found.values()))}", style="dim")]
    return [Text(f"{name}: {protocol}", style="dim") for name, protocol in found.items()]


def short_names(models: Sequence[str]) -> dict[str, str]:
    """The shortest ends of the paths that tell the models apart, by path."""
    for count in range(1, 6):
        ends = {model: "/".join(Path(model).parts[-count:]) for model in models}
        if len(set(ends.values())) == len(set(models)):
            return ends
    return {model: model for model in models}


def signal_table(signals: Sequence[TaskSignal]) -> WideTable:
    """Return a table of signal-to-noise ratios, the highest first."""
    # It is one of the other two accuracies.
    signals = [signal for signal in signals if signal.measure != "reported_accuracy"]
    names = ["measure", "S/N", "between shapes", "between seeds", "p", "mean", "chance"]
    rows = [
        [
            (TITLES | CONVERSATION_TITLES).get(signal.measure, signal.measure),
            f"{signal.result.ratio:.2f}",
            f"{signal.result.signal:.4f}",
            f"{signal.result.noise:.4f}",
            f"{signal.result.p_value:.2g}",
            f"{signal.mean:.3f}",
            MISSING if signal.chance is None else f"{signal.chance:.3f}",
        ]
        for signal in signals
    ]
    cells = [[Text(cell) for cell in row] for row in rows]
    return WideTable("task", [signal.task for signal in signals], names, cells)


def _apart(pairs: Sequence[MeasuredPair], names: Mapping[str, str]) -> list[RenderableType]:
    """The table of the measures that told the models apart."""
    tasks = telling_measures(pairs)
    measures = [name for name in MEASURES if any(pair.measure == name for pair in pairs)]
    models = {name for pair in pairs for name in (pair.first, pair.second)}
    cells = [
        [_apart_cell(task, measure, pairs, names, len(models)) for measure in measures]
        for task in tasks
    ]
    titles = [(TITLES | CONVERSATION_TITLES)[measure] for measure in measures]
    tests = sum(pair.difference is not None for pair in pairs)
    head = "Which measures could tell these models apart"
    if len(models) > 2:
        head += " (pairs told apart, of all pairs)"
    note = (
        f"Models are compared on equal documents, in pairs. The chance of any wrong verdict is at "
        f"most 5 % for all {tests} comparisons together; ≈: not distinguishable."
    )
    return [
        Text(head, style="bold"),
        WideTable("task", list(tasks), titles, cells),
        Text(note, style="dim"),
        Text(),
    ]


def _apart_cell(
    task: str, measure: str, pairs: Sequence[MeasuredPair], names: Mapping[str, str], models: int
) -> Text:
    found = [pair for pair in pairs if (pair.task, pair.measure) == (task, measure)]
    if not found:
        return Text(MISSING)
    if models > 2:
        apart = sum(pair.verdict in (BETTER, WORSE) for pair in found)
        return Text(f"{apart} of {len(found)}", style="green" if apart else "dim")
    (pair,) = found
    if pair.verdict in (BETTER, WORSE):
        winner = pair.first if pair.verdict == BETTER else pair.second
        return Text(f"{names[winner]}", style="green")
    return Text(MISSING if pair.verdict == NOT_COMPARABLE else "≈", style=COLOUR[pair.verdict])


def _results(
    records: Sequence[Mapping[str, Any]], names: Mapping[str, str], kind: str
) -> list[RenderableType]:
    """The table of all tasks, or of all groups, with one row per model."""
    found_tasks = dict.fromkeys(name for record in records for name in record[kind])
    tasks = [name for name in found_tasks if name not in TASKS]
    rows = [
        (task, record["model"], record[kind][task])
        for task in tasks for record in records if task in record[kind]
    ]  # fmt: skip
    if not rows:
        return []
    titles_shown = TITLES if len(records) <= MAX_DETAILED else FEW_TITLES
    shown = [name for name in titles_shown if any(name in entry for _, _, entry in rows)]
    if kind == "groups":
        shown = [name for name in shown if name in ("accuracy", "accuracy_norm", "bits_per_byte")]
    titles = ["documents", "chance", *(TITLES[name] for name in shown)]
    if kind == "groups":
        shown, titles = ["reported_accuracy", *shown], [*titles[:2], "reported", *titles[2:]]
    cells = [
        [
            Text(str(entry["documents"])),
            Text(f"{100 * entry['chance']:.1f}" if "chance" in entry else MISSING),
            *(Text(_value_text(entry, name)) for name in shown),
        ]
        for _, _, entry in rows
    ]
    many = len(records) > 1
    labels = [f"{task} {names[model]}" if many else task for task, model, _ in rows]
    head = "task" if kind == "tasks" else "mean over tasks"
    found: list[RenderableType] = [WideTable(head, labels, titles, cells)]
    if kind == "groups":
        found.append(Text("reported: norm. where the harness reports acc_norm, accuracy elsewhere.",
                          style="dim"))  # fmt: skip
    return found


def _texts(records: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[RenderableType]:
    rows = [(file, r["model"], entry) for r in records for file, entry in r["text"].items()]
    if not rows:
        return []
    titles = ["nats/token", "perplexity", "bits/byte", "tokens", "windows"]
    cells = [
        [
            Text(_value_text(entry, "nats_per_token")),
            Text(f"{entry['perplexity']:.4g}"),
            Text(_value_text(entry, "bits_per_byte")),
            Text(f"{entry['tokens']:,}"),
            Text(f"{entry['windows']:,}"),
        ]
        for _, _, entry in rows
    ]
    files = short_names([file for file, _, _ in rows])
    many = len(records) > 1
    labels = [f"{files[f]} {names[model]}" if many else files[f] for f, model, _ in rows]
    protocols = dict.fromkeys(f"{files[f]}: {entry['protocol']}" for f, _, entry in rows)
    return [
        WideTable("text", labels, titles, cells),
        *(Text(protocol, style="dim") for protocol in protocols),
    ]


def _value_text(entry: Mapping[str, Any], name: str) -> str:
    """A value with its interval; accuracies are in per cent."""
    return measure_text(entry, name, is_per_cent=is_share(name))
