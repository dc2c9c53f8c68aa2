"""The tables of the page: shapes, and the verdict of every pair."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from mobilellm.report.columns import Column, shown_columns
from mobilellm.report.shapes import Shape
from mobilellm.report.statistics import (
    BETTER,
    NOT_DISTINGUISHABLE,
    TOO_FEW_SEEDS,
    WORSE,
    Pair,
)
from mobilellm.report.units import signed_text

if TYPE_CHECKING:
    from mobilellm.report.comparison import Comparison

WORDS = {
    BETTER: ("better", "▲ better"),
    WORSE: ("worse", "▼ worse"),
    NOT_DISTINGUISHABLE: ("same", "≈"),
    TOO_FEW_SEEDS: ("same", "?"),
}


def shapes_html(comparison: "Comparison") -> str:
    """A row a shape, sortable."""
    columns = shown_columns(comparison.shapes)
    heads = '<th scope="col">shape</th>' + "".join(
        f'<th scope="col" title="{escape(column.meaning)}">{escape(column.name)}</th>'
        for column in columns
    )
    rows = "".join(
        _shape_row(index, shape, columns) for index, shape in enumerate(comparison.shapes)
    )
    return (
        f'<div class="scroll"><table class="sortable"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def matrix_html(comparison: "Comparison") -> str:
    """Each row's shape as compared with each column's."""
    labels = [shape.label for shape in comparison.shapes]
    heads = "".join(f'<th scope="col">{escape(label)}</th>' for label in labels)
    rows = "".join(
        f'<tr><th scope="row">{escape(row)}</th>'
        + "".join(_pair_cell(comparison.pair(row, column)) for column in labels)
        + "</tr>"
        for row in labels
    )
    return (
        f'<div class="scroll"><table class="matrix"><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _shape_row(index: int, shape: Shape, columns: Sequence[Column]) -> str:
    fill = "transparent" if shape.is_shared else f"var(--shape-{index})"
    swatch = (
        f'<span class="swatch" style="border-color:var(--shape-{index});background:{fill}"></span>'
    )
    cells = [f'<th scope="row" data-value="{index}">{swatch}{escape(shape.label)}</th>']
    for column in columns:
        value = column.value(shape)
        key = "" if value is None else f"{value:.9g}"
        cells.append(f'<td data-value="{key}">{escape(column.text(shape))}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _pair_cell(pair: Pair | None) -> str:
    if pair is None:
        return '<td class="self">·</td>'
    kind, word = WORDS[pair.verdict]
    difference = "" if pair.difference is None else signed_text(pair.difference)
    p_value = (
        f"{len(pair.seeds)} common seeds"
        if pair.adjusted_p_value is None
        else f"p = {pair.p_value:.2g}, after Holm {pair.adjusted_p_value:.2g}"
    )
    title = f"{pair.first} against {pair.second}: {pair.verdict}; {p_value}"
    return f'<td class="{kind}" title="{escape(title)}">{word}<span>{difference}</span></td>'
