"""The tables of the page: configurations, verdicts and compressed models."""

from collections.abc import Sequence
from html import escape

from mobilellm.report.analysis import Analysis
from mobilellm.report.columns import Column, shown_columns
from mobilellm.report.evaluated_runs import EvaluatedRuns
from mobilellm.report.evaluated_table import HEAD, evaluated_heads, evaluated_rows
from mobilellm.report.interval_text import signed_text
from mobilellm.report.leaderboard import COLUMNS as LEADERBOARD
from mobilellm.report.pair_rows import reference_rows
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
from mobilellm.units import MISSING

CELLS = {
    BETTER: ("better", "▲ better"),
    WORSE: ("worse", "▼ worse"),
    EQUIVALENT: ("equal", "= equivalent"),
    NOT_DISTINGUISHABLE: ("same", "≈"),
    TOO_FEW_SEEDS: ("same", "?"),
    NOT_COMPARABLE: ("same", "–"),
}
"""CSS class and text of the cell for each verdict."""


def groups_html(analysis: Analysis) -> str:
    """Return a sortable table with one row per configuration."""
    columns = shown_columns(analysis.groups)
    heads = '<th scope="col">configuration</th>' + "".join(
        f'<th scope="col" title="{escape(column.meaning)}">{escape(column.name)}</th>'
        for column in columns
    )
    rows = "".join(_group_row(index, group, columns) for index, group in enumerate(analysis.groups))
    return table_html("sortable", heads, rows)


def matrix_html(analysis: Analysis, labels: Sequence[str]) -> str:
    """Return a table that compares the configuration of each row with that of each column."""
    heads = heads_html(*labels)
    rows = "".join(
        f'<tr><th scope="row">{escape(row)}</th>'
        + "".join(_pair_cell(analysis.pair(row, column)) for column in labels)
        + "</tr>"
        for row in labels
    )
    return table_html("matrix", f"<th></th>{heads}", rows)


def reference_html(analysis: Analysis) -> str:
    """Return a table that compares each configuration with the reference, lowest loss first."""
    heads = heads_html("configuration", "difference", "verdict", "corrected p", "common seeds")
    rows = "".join(
        f'<tr><th scope="row">{escape(row.label)}</th><td>{escape(row.difference)}</td>'
        f'<td class="{CELLS[row.pair.verdict][0] if row.pair else "self"}">{escape(row.verdict)}'
        f"</td><td>{escape(row.p_value)}</td><td>{escape(row.seeds)}</td></tr>"
        for row in reference_rows(analysis)
    )
    return table_html("reference", heads, rows)


def leaderboard_html(analysis: Analysis) -> str:
    """Return a sortable table with one row per compressed model."""
    shown = [c for c in LEADERBOARD if any(c.text(row) for row in analysis.compressed)]
    heads = '<th scope="col">model</th>' + "".join(
        f'<th scope="col" title="{escape(column.meaning)}">{escape(column.name)}</th>'
        for column in shown
    )
    rows = ""
    for index, row in enumerate(analysis.compressed):
        title = escape(str(row.folder))
        cells = [f'<th scope="row" data-value="{index}" title="{title}">{escape(row.label)}</th>']
        for column in shown:
            value = column.value(row)
            key = "" if value is None else f"{value:.9g}"
            cells.append(f'<td data-value="{key}">{escape(column.text(row) or MISSING)}</td>')
        rows += f"<tr>{''.join(cells)}</tr>"
    return table_html("sortable", heads, rows)


def rates_html(analysis: Analysis) -> str:
    """Return a table with the best learning rate of each shape."""
    heads = heads_html(*RATE_HEADS)
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for label, *cells in rate_rows(analysis.rate_curves)
    )
    return table_html("rates", heads, rows)


def evaluated_html(found: EvaluatedRuns, labels: Sequence[str]) -> str:
    """Return a table with one row per benchmark task and measure."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in evaluated_rows(found, labels)
    )
    return table_html("evaluated", heads_html(HEAD, *evaluated_heads(labels)), rows)


def heads_html(*names: str) -> str:
    """Return the cells of a heading."""
    return "".join(f'<th scope="col">{escape(name)}</th>' for name in names)


def table_html(kind: str, heads: str, rows: str) -> str:
    """Return a table that scrolls sideways if it is wider than the page.

    Args:
        kind: its CSS class.
        heads: cells of the heading.
        rows: rows of the body.
    """
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _group_row(index: int, group: RunGroup, columns: Sequence[Column]) -> str:
    fill = "transparent" if group.is_shared else f"var(--shape-{index})"
    swatch = (
        f'<span class="swatch" style="border-color:var(--shape-{index});background:{fill}"></span>'
    )
    cells = [f'<th scope="row" data-value="{index}">{swatch}{escape(group.label)}</th>']
    for column in columns:
        value = column.value(group)
        key = "" if value is None else f"{value:.9g}"
        cells.append(f'<td data-value="{key}">{escape(column.text(group))}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _pair_cell(pair: Pair | None) -> str:
    if pair is None:
        return '<td class="self">·</td>'
    kind, word = CELLS[pair.verdict]
    difference = "" if pair.difference is None else signed_text(pair.difference)
    if pair.verdict == NOT_COMPARABLE:
        title = f"{pair.first} against {pair.second}: not comparable, {pair.reason}"
        return f'<td class="{kind}" title="{escape(title)}">{word}</td>'
    p_value = (
        f"{len(pair.seeds)} common seeds"
        if pair.adjusted_p_value is None
        else f"p = {pair.p_value:.2g}, corrected for all pairs {pair.adjusted_p_value:.2g}"
    )
    title = f"{pair.first} against {pair.second}: {pair.verdict}; {p_value}"
    return f'<td class="{kind}" title="{escape(title)}">{word}<span>{difference}</span></td>'
