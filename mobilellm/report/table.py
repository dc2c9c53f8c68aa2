"""The analysis in the terminal."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from mobilellm.report.analysis import Analysis
from mobilellm.report.columns import Column, shown_columns
from mobilellm.report.evaluated_runs import evaluated_runs
from mobilellm.report.evaluated_table import CAPTION, HEAD, evaluated_heads, evaluated_rows
from mobilellm.report.findings import UNIT
from mobilellm.report.latency_tables import held_equal_lines
from mobilellm.report.pair_rows import reference_caption, reference_rows
from mobilellm.report.rate_rows import RATE_HEADS, rate_rows
from mobilellm.report.run_groups import RunGroup
from mobilellm.report.statistics import (
    BETTER,
    EQUIVALENT,
    NOT_COMPARABLE,
    NOT_DISTINGUISHABLE,
    TOO_FEW_SEEDS,
    WORSE,
    Pair,
)
from mobilellm.units import join_names

SYMBOL = {
    BETTER: "better", WORSE: "worse", EQUIVALENT: "=", NOT_DISTINGUISHABLE: "≈",
    TOO_FEW_SEEDS: "?", NOT_COMPARABLE: "–",
}  # fmt: skip
COLOUR = {
    BETTER: "green", WORSE: "red", EQUIVALENT: "cyan", NOT_DISTINGUISHABLE: "dim",
    TOO_FEW_SEEDS: "yellow", NOT_COMPARABLE: "dim",
}  # fmt: skip
MIN_LABEL_WIDTH = 18
"""Smallest width of the label column, in characters; longer labels are wrapped."""
GAP = 2
"""Spaces between two columns."""


def terminal_report(analysis: Analysis) -> RenderableType:
    """Return tables, verdicts, cautions, the runs that were left out, and the findings."""
    parts: list[RenderableType] = [Text(analysis.title, style="bold"), Text()]
    if analysis.groups:
        parts += [
            RunGroupTable(analysis.groups),
            Text(reference_sentence(analysis.groups), style="dim"),
            *(Text(line) for line in held_equal_lines(analysis.held_equal)),
            Text(),
        ]
    if analysis.compressed:
        parts.append(leaderboard_table(analysis))
    if analysis.rate_curves:
        parts.append(rates_table(analysis))
    parts += evaluated_table(analysis.groups)
    parts += _pairs(analysis)
    parts += [Text(sentence, style="dim") for sentence in analysis.power_sentences]
    parts += [Text()] if analysis.power_sentences else []
    parts += [_caution(caution.is_serious, caution.message) for caution in analysis.cautions]
    parts += [
        Text.assemble(("left out:", "yellow"), f" {run.folder.name} ({run.status}): {run.reason}")
        for run in analysis.left_out
    ]
    parts.append(Text())
    parts += [
        Text(sentence, style="bold" if index == 0 else "")
        for index, sentence in enumerate(analysis.findings)
    ]
    page = f"Report: {analysis.page.resolve()}"
    parts += [Text(), Text(page, no_wrap=True, overflow="ignore")]
    return Group(*parts)


class WideTable:
    """A table that is split into parts, one below the other, if it is wider than the terminal."""

    def __init__(
        self,
        head: str,
        labels: Sequence[str],
        names: Sequence[str],
        rows: Sequence[Sequence[Text]],
        *,
        breaks: Iterable[int] = (),
    ) -> None:
        """Store the cells; the layout is computed when the width of the terminal is known.

        Args:
            head: heading of the first column, which every part repeats.
            labels: cells of the first column.
            names: headings of the other columns.
            rows: one cell per label and name.
            breaks: columns before which a new part begins if the table is split.
        """
        self.head, self.labels, self.names, self.rows = head, labels, names, rows
        self.breaks = frozenset(breaks)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the parts: as few as possible, with labels as wide as possible."""
        widths = [self._width(column) for column in range(len(self.names))]
        longest = max(map(len, (self.head, *self.labels)))
        if longest + sum(widths) + GAP * len(widths) <= options.max_width:
            yield self._part(longest, range(len(widths)), widths)
        else:
            shortest = min(longest, max(MIN_LABEL_WIDTH, len(self.head)))
            most = max(shortest, options.max_width - max(widths) - GAP)
            layouts = [
                (label, self._parts(options.max_width - label, widths))
                for label in range(min(longest, most), shortest - 1, -1)
            ]
            label, parts = min(layouts, key=lambda layout: len(layout[1]))
            for number, columns in enumerate(parts):
                if number:
                    yield Text()
                yield self._part(label, columns, widths)
        yield Text()

    def _parts(self, room: int, widths: Sequence[int]) -> list[list[int]]:
        """The columns of each part, left to right."""
        parts: list[list[int]] = [[]]
        for column, width in enumerate(widths):
            used = sum(widths[c] + GAP for c in parts[-1]) + width + GAP
            if parts[-1] and (used > room or column in self.breaks):
                parts.append([])
            parts[-1].append(column)
        return parts

    def _width(self, column: int) -> int:
        """Width of the longest cell, or of the longest word of the heading."""
        head = max(map(len, self.names[column].split()), default=1)
        return max(head, *(row[column].cell_len for row in self.rows))

    def _part(self, label: int, columns: Iterable[int], widths: Sequence[int]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
        table.add_column(Text(self.head), style="bold", width=label, overflow="fold")
        for column in columns:
            table.add_column(
                Text(self.names[column]), justify="right", width=widths[column], overflow="fold"
            )
        for name, row in zip(self.labels, self.rows, strict=True):
            table.add_row(Text(name), *(row[column] for column in columns))
        return table


class RunGroupTable(WideTable):
    """The main table; if it is split, a new part begins with the first result."""

    def __init__(self, groups: Sequence[RunGroup]) -> None:
        """Make the cells."""
        columns = shown_columns(groups)
        first_result = [column.is_result for column in columns].index(True)
        super().__init__(
            "configuration",
            [group.label for group in groups],
            [column.name for column in columns],
            [[_text(column, group) for column in columns] for group in groups],
            breaks=(first_result,),
        )


def _text(column: Column, group: RunGroup) -> Text:
    return Text(column.text(group))


def leaderboard_table(analysis: Analysis) -> WideTable:
    """Return the table of compressed models, the lowest loss first."""
    from mobilellm.report.leaderboard import COLUMNS

    rows = analysis.compressed
    shown = [column for column in COLUMNS if any(column.text(row) for row in rows)]
    return WideTable(
        "compressed model",
        [row.label for row in rows],
        [column.name for column in shown],
        [[Text(column.text(row) or "–") for column in shown] for row in rows],
    )


def rates_table(analysis: Analysis) -> WideTable:
    """Return a table with the best learning rate of each shape."""
    rows = rate_rows(analysis.rate_curves)
    return WideTable(
        RATE_HEADS[0],
        [label for label, *_ in rows],
        RATE_HEADS[1:],
        [[Text(cell) for cell in cells] for _, *cells in rows],
    )


def evaluated_table(groups: Sequence[RunGroup]) -> list[RenderableType]:
    """Return the table of benchmark tasks with its caption; nothing if no run was evaluated."""
    found = evaluated_runs(groups)
    if found is None:
        return []
    labels = [group.label for group in groups]
    rows = evaluated_rows(found, labels)
    cells = [[Text(cell) for cell in cells] for _, *cells in rows]
    table = WideTable(HEAD, [name for name, *_ in rows], evaluated_heads(labels), cells)
    return [table, Text(CAPTION, style="dim"), Text()]


def reference_sentence(groups: Sequence[RunGroup]) -> str:
    """Return a sentence with the unigram and bigram losses of the validation text."""
    parts = []
    for name in ("unigram", "bigram"):
        values = {
            f"{value:.3f}"
            for group in groups
            for run in group.runs
            if (value := run.number(f"{name}_loss")) is not None
        }
        if values:
            parts.append(f"{name} model {join_names(sorted(values), 'or')}")
    if not parts:
        return "The unigram and bigram losses of the validation text are unknown."
    return f"For reference, on the same validation text: {join_names(parts)} nats per token."


def _pairs(analysis: Analysis) -> list[RenderableType]:
    """The verdicts of all pairs, or of all configurations against the reference."""
    if not analysis.pairs:
        return []
    if analysis.reference is None:
        unit = UNIT[analysis.metric or "val_loss"]
        parts: list[RenderableType] = []
        for name, labels in analysis.blocks:
            at = f" at {name}" if name else ""
            text = f"Row compared with column{at}, difference in {unit}:"
            parts += [Text(text, style="dim"), _verdicts(analysis, labels)]
        return parts
    rows = reference_rows(analysis)
    table = WideTable(
        "configuration",
        [row.label for row in rows],
        ["difference", "verdict", "p", "seeds"],
        [
            [
                Text(row.difference),
                Text(row.verdict, style=COLOUR.get(row.pair.verdict, "") if row.pair else ""),
                Text(row.p_value),
                Text(row.seeds),
            ]
            for row in rows
        ],
    )
    return [Text(reference_caption(analysis), style="dim"), table]


def _verdicts(analysis: Analysis, labels: Sequence[str]) -> WideTable:
    """The configuration of each row compared with that of each column."""
    cells = [[_cell(analysis.pair(row, column)) for column in labels] for row in labels]
    return WideTable("", labels, labels, cells)


def _cell(pair: Pair | None) -> Text:
    if pair is None:
        return Text("·", style="dim")
    if pair.difference is None:
        return Text(SYMBOL[pair.verdict], style=COLOUR[pair.verdict])
    return Text(f"{SYMBOL[pair.verdict]} {pair.difference.mean:+.3f}", style=COLOUR[pair.verdict])


def _caution(is_serious: bool, message: str) -> Text:
    if is_serious:
        return Text.assemble(("warning:", "bold yellow"), f" {message}")
    return Text(f"note: {message}")
