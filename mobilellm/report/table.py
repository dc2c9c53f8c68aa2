"""The comparison in the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mobilellm.report.columns import Column, shown_columns
from mobilellm.report.findings import UNIT
from mobilellm.report.shapes import Shape
from mobilellm.report.statistics import (
    BETTER,
    NOT_DISTINGUISHABLE,
    TOO_FEW_SEEDS,
    WORSE,
    Pair,
)
from mobilellm.report.units import listed

if TYPE_CHECKING:
    from mobilellm.report.comparison import Comparison

SYMBOL = {BETTER: "better", WORSE: "worse", NOT_DISTINGUISHABLE: "≈", TOO_FEW_SEEDS: "?"}
COLOUR = {BETTER: "green", WORSE: "red", NOT_DISTINGUISHABLE: "dim", TOO_FEW_SEEDS: "yellow"}


def terminal_report(comparison: "Comparison") -> RenderableType:
    """Table, reference losses, verdict of each pair, cautions, what was left out, the finding."""
    parts: list[RenderableType] = [
        Text(comparison.title, style="bold"),
        ShapeTable(comparison.shapes),
        Text(reference_sentence(comparison.shapes), style="dim"),
    ]
    if comparison.pairs:
        unit = UNIT[comparison.metric or "val_loss"]
        parts.append(Text(f"Row against column, difference in {unit}:", style="dim"))
        parts.append(_verdicts(comparison))
    parts += [_caution(caution.is_grave, caution.message) for caution in comparison.cautions]
    parts += [
        Text.from_markup(
            f"[yellow]left out:[/] {escape(run.folder.name)} ({run.status}): {escape(run.reason)}"
        )
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


class ShapeTable:
    """All columns side by side, or in two tables where the terminal is narrow."""

    def __init__(self, shapes: Sequence[Shape]) -> None:
        """Hold the rows; the layout follows when the width is known."""
        self.shapes = shapes

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Choose the layout for this console."""
        columns = shown_columns(self.shapes)
        whole = _table(self.shapes, columns)
        if console.measure(whole, options=options.update(width=1000)).maximum <= options.max_width:
            yield whole
            return
        yield _table(self.shapes, [column for column in columns if not column.is_result])
        yield _table(self.shapes, [column for column in columns if column.is_result])


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


def _table(shapes: Sequence[Shape], columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("shape", no_wrap=True, style="bold")
    for column in columns:
        table.add_column(column.name, justify="right", no_wrap=True)
    for shape in shapes:
        table.add_row(shape.label, *(column.text(shape) for column in columns))
    return table


def _verdicts(comparison: "Comparison") -> Table:
    """Each row's shape as compared with each column's."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    labels = [shape.label for shape in comparison.shapes]
    table.add_column("", style="bold", no_wrap=True)
    for label in labels:
        table.add_column(label, justify="right", overflow="fold")
    for row in labels:
        cells = [_cell(comparison.pair(row, column)) for column in labels]
        table.add_row(row, *cells)
    return table


def _cell(pair: Pair | None) -> Text:
    if pair is None:
        return Text("·", style="dim")
    if pair.difference is None:
        return Text(SYMBOL[pair.verdict], style=COLOUR[pair.verdict])
    return Text(f"{SYMBOL[pair.verdict]} {pair.difference.mean:+.3f}", style=COLOUR[pair.verdict])


def _caution(is_grave: bool, message: str) -> Text:
    return Text.from_markup(
        f"[bold yellow]warning:[/] {escape(message)}" if is_grave else f"note: {escape(message)}"
    )
