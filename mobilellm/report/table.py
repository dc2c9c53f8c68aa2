"""The comparison in the terminal."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from mobilellm.report.columns import Column, shown_columns
from mobilellm.report.findings import UNIT
from mobilellm.report.pair_rows import reference_caption, reference_rows
from mobilellm.report.shapes import Shape
from mobilellm.report.statistics import (
    BETTER,
    NOT_COMPARABLE,
    NOT_DISTINGUISHABLE,
    TOO_FEW_SEEDS,
    WORSE,
    Pair,
)
from mobilellm.units import listed

if TYPE_CHECKING:
    from mobilellm.report.comparison import Comparison

SYMBOL = {
    BETTER: "better", WORSE: "worse", NOT_DISTINGUISHABLE: "≈", TOO_FEW_SEEDS: "?",
    NOT_COMPARABLE: "–",
}  # fmt: skip
COLOUR = {
    BETTER: "green", WORSE: "red", NOT_DISTINGUISHABLE: "dim", TOO_FEW_SEEDS: "yellow",
    NOT_COMPARABLE: "dim",
}  # fmt: skip
SHORTEST = 18
"""Characters that a shape's name has at least in a line; longer ones go on in the next."""
GAP = 2
"""Blanks between two columns."""


def terminal_report(comparison: "Comparison") -> RenderableType:
    """Table, reference losses, verdict of each pair, cautions, what was left out, the finding."""
    parts: list[RenderableType] = [Text(comparison.title, style="bold"), Text()]
    if comparison.shapes:
        parts += [
            ShapeTable(comparison.shapes),
            Text(reference_sentence(comparison.shapes), style="dim"),
            Text(),
        ]
    if comparison.compressed:
        parts.append(leaderboard_table(comparison))
    parts += _pairs(comparison)
    parts += [_caution(caution.is_grave, caution.message) for caution in comparison.cautions]
    parts += [
        Text.assemble(("left out:", "yellow"), f" {run.folder.name} ({run.status}): {run.reason}")
        for run in comparison.left_out
    ]
    parts.append(Text())
    parts += [
        Text(sentence, style="bold" if index == 0 else "")
        for index, sentence in enumerate(comparison.findings)
    ]
    page = f"Report: {comparison.page.resolve()}"
    parts += [Text(), Text(page, no_wrap=True, overflow="ignore")]
    return Group(*parts)


class WideTable:
    """A table in as many parts, one below the other, as no number in it is cut."""

    def __init__(
        self,
        head: str,
        labels: Sequence[str],
        names: Sequence[str],
        rows: Sequence[Sequence[Text]],
        *,
        breaks: Iterable[int] = (),
    ) -> None:
        """Hold the cells; the layout follows when the width is known.

        Args:
            head: of the first column, which every part repeats.
            labels: the first column.
            names: heads of the other columns.
            rows: a cell for each label and name.
            breaks: columns before which a new part begins, where not all fit side by side.
        """
        self.head, self.labels, self.names, self.rows = head, labels, names, rows
        self.breaks = frozenset(breaks)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As few parts as this console has room for, with names as wide as that allows."""
        widths = [self._width(column) for column in range(len(self.names))]
        longest = max(map(len, (self.head, *self.labels)))
        if longest + sum(widths) + GAP * len(widths) <= options.max_width:
            yield self._part(longest, range(len(widths)), widths)
        else:
            shortest = min(longest, max(SHORTEST, len(self.head)))
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
        """Columns that stand side by side, left to right."""
        parts: list[list[int]] = [[]]
        for column, width in enumerate(widths):
            used = sum(widths[c] + GAP for c in parts[-1]) + width + GAP
            if parts[-1] and (used > room or column in self.breaks):
                parts.append([])
            parts[-1].append(column)
        return parts

    def _width(self, column: int) -> int:
        """Of the longest cell, and of the head's longest word."""
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


class ShapeTable(WideTable):
    """All columns side by side, or what was configured and what came out one below the other."""

    def __init__(self, shapes: Sequence[Shape]) -> None:
        """Hold the rows."""
        columns = shown_columns(shapes)
        first_result = [column.is_result for column in columns].index(True)
        super().__init__(
            "shape",
            [shape.label for shape in shapes],
            [column.name for column in columns],
            [[_text(column, shape) for column in columns] for shape in shapes],
            breaks=(first_result,),
        )


def _text(column: Column, shape: Shape) -> Text:
    return Text(column.text(shape))


def leaderboard_table(comparison: "Comparison") -> WideTable:
    """Compressed models, the lowest loss first."""
    from mobilellm.report.leaderboard import COLUMNS

    rows = comparison.compressed
    shown = [column for column in COLUMNS if any(column.text(row) for row in rows)]
    return WideTable(
        "compressed model",
        [row.label for row in rows],
        [column.name for column in shown],
        [[Text(column.text(row) or "–") for column in shown] for row in rows],
    )


def reference_sentence(shapes: Sequence[Shape]) -> str:
    """Unigram and bigram loss of the validation text."""
    parts = []
    for name in ("unigram", "bigram"):
        values = {
            f"{value:.3f}"
            for shape in shapes
            for run in shape.runs
            if (value := run.number(f"{name}_loss")) is not None
        }
        if values:
            parts.append(f"{name} model {listed(sorted(values), 'or')}")
    if not parts:
        return "Unigram and bigram loss of the validation text are not known."
    return f"For reference, on the same validation text: {listed(parts)} nats per token."


def _pairs(comparison: "Comparison") -> list[RenderableType]:
    """Each pair, or each shape against the reference."""
    if not comparison.pairs:
        return []
    if comparison.reference is None:
        unit = UNIT[comparison.metric or "val_loss"]
        text = f"Row against column, difference in {unit}:"
        return [Text(text, style="dim"), _verdicts(comparison)]
    rows = reference_rows(comparison)
    table = WideTable(
        "shape",
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
    return [Text(reference_caption(comparison), style="dim"), table]


def _verdicts(comparison: "Comparison") -> WideTable:
    """Each row's shape as compared with each column's."""
    labels = [shape.label for shape in comparison.shapes]
    cells = [[_cell(comparison.pair(row, column)) for column in labels] for row in labels]
    return WideTable("", labels, labels, cells)


def _cell(pair: Pair | None) -> Text:
    if pair is None:
        return Text("·", style="dim")
    if pair.difference is None:
        return Text(SYMBOL[pair.verdict], style=COLOUR[pair.verdict])
    return Text(f"{SYMBOL[pair.verdict]} {pair.difference.mean:+.3f}", style=COLOUR[pair.verdict])


def _caution(is_grave: bool, message: str) -> Text:
    if is_grave:
        return Text.assemble(("warning:", "bold yellow"), f" {message}")
    return Text(f"note: {message}")
