"""Tables of the tasks on conversations, in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from mobilellm.evaluation.conversations.names import (
    CONSTRAINED,
    LOSSES,
    MAJORITY,
    OF_CALLS,
    OF_REPLIES,
    RANDOM,
    SEEN,
    SHARES,
    TASKS,
    UNSEEN,
)
from mobilellm.report.conversation_titles import TITLES
from mobilellm.report.measure_text import measure_text
from mobilellm.report.table import WideTable

PER_CENT = (*SHARES, "rouge_1", "rouge_l")

EXPLANATION = (
    "Per cent, with intervals of 95 % over dialogues; losses in nats per token. intent: calls of "
    "the right function; structure: with the right arguments too; valid: calls that their schema "
    "allows; needless: replies with a call. constrained: the model is told that a call is due. "
    "random, majority: answers without a model."
)
BY_FUNCTION = "Calls of functions that were, and were not, in the training data"


def conversation_tables(
    records: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> list[RenderableType]:
    """Return the tables of all tasks on conversations; nothing if there are none.

    Args:
        records: of `Evaluation.record`.
        names: a short name for each model, by its path.
    """
    found: list[RenderableType] = []
    for task in TASKS:
        rows = _rows(task, records, names)
        if rows:
            entry = rows[0][1]
            found.append(Text(_heading(task, entry), style="bold"))
            found.append(_table(rows, (*OF_CALLS, *OF_REPLIES, *LOSSES), TITLES))
            parts = {f"{name}{end}": f"{TITLES[name]} {end[1:]}"
                     for end in (SEEN, UNSEEN) for name in OF_CALLS}  # fmt: skip
            if any(name in values for _, values in rows for name in parts):
                found += [Text(BY_FUNCTION, style="bold"), _table(rows, tuple(parts), parts)]
    return [*found, Text(EXPLANATION, style="dim")] if found else []


def _heading(task: str, entry: Mapping[str, Any]) -> str:
    calls = f", {entry['calls']} calls" if entry.get("calls") else ""
    return f"{task}: {entry['documents']} dialogues{calls}, {entry['replies']} replies"


def _rows(
    task: str, records: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> list[tuple[str, Mapping[str, Any]]]:
    """Label and measures of each model and its variants; the baselines stand once at the end."""
    rows: list[tuple[str, Mapping[str, Any]]] = []
    baselines: dict[str, Mapping[str, Any]] = {}
    for record in records:
        entry = record["tasks"].get(task)
        if entry is None:
            continue
        rows.append((names[record["model"]], entry))
        variants = entry["variants"]
        if CONSTRAINED in variants:
            rows.append(("  constrained", variants[CONSTRAINED]))
        baselines |= {name: variants[name] for name in (RANDOM, MAJORITY)}
    return [*rows, *baselines.items()]


def _table(
    rows: Sequence[tuple[str, Mapping[str, Any]]],
    measures: Sequence[str],
    titles: Mapping[str, str],
) -> WideTable:
    shown = [name for name in measures if any(name in entry for _, entry in rows)]
    cells = [
        [Text(measure_text(entry, name, is_per_cent=name in PER_CENT)) for name in shown]
        for _, entry in rows
    ]
    return WideTable("answers", [label for label, _ in rows], [titles[n] for n in shown], cells)
