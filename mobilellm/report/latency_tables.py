"""What was held equal and the verdicts at equal latency, as tables of the page and as lines."""

from collections.abc import Sequence
from html import escape

from mobilellm.report.analysis import Analysis
from mobilellm.report.budgets import Budget, HeldEqual
from mobilellm.report.caution import shorten_list
from mobilellm.report.equal_latency import (
    ALSO_BETTER,
    SLOWER,
    TIMES_UNCLEAR,
    EqualLatency,
    best_of,
)
from mobilellm.report.interval_text import interval_text, signed_text
from mobilellm.report.page_tables import heads_html, table_html
from mobilellm.units import MISSING

CELLS = {
    ALSO_BETTER: ("better", "▲ better at equal latency"),
    SLOWER: ("same", "open: lower loss, but slower"),
    TIMES_UNCLEAR: ("same", "open: times too uncertain"),
}
"""CSS class and text of a verdict."""


def held_equal_lines(found: Sequence[HeldEqual]) -> list[str]:
    """Return one line per budget for the terminal; the shapes are named if there are several."""
    if len(found) == 1:
        return [str(found[0])]
    return [f"{shorten_list(list(each.labels))}: {each}" for each in found]


def held_equal_html(analysis: Analysis) -> str:
    """Return a table with one row per quantity for each budget."""
    heads = heads_html("quantity", "range", "missed by", "most in", "")
    parts = []
    for found in analysis.held_equal:
        rows = "".join(
            f'<tr><th scope="row">{escape(budget.name)}</th><td>{escape(budget.range_text)}</td>'
            f"<td>{escape(budget.spread_text)}</td><td>{escape(_most(budget))}</td>"
            + (
                '<td class="equal">equal</td></tr>'
                if budget.is_matched
                else '<td class="same">not equal</td></tr>'
            )
            for budget in sorted(found.budgets, key=lambda budget: not budget.is_matched)
        )
        if len(analysis.held_equal) > 1:
            parts.append(f"<h3>{escape(shorten_list(list(found.labels)))}</h3>")
        parts.append(table_html("held", heads, rows))
    return "".join(parts)


def levels_html(found: EqualLatency) -> str:
    """Return a table with the interpolated loss of each depth at each common latency."""
    if not found.levels:
        return ""
    labels = list(dict.fromkeys(label for level in found.levels for label in level.losses))
    heads = heads_html("ms per token", *labels, "lowest loss")
    rows = ""
    for level in found.levels:
        best, verdicts = best_of(level)
        cells = "".join(
            f"<td>{escape(interval_text(level.losses.get(label)))}</td>" for label in labels
        )
        text = "; ".join(f"{kind} than {shorten_list(names)}" if kind == "better"
                         else f"{kind}: {shorten_list(names)}"
                         for kind, names in verdicts.items())  # fmt: skip
        rows += (
            f'<tr><th scope="row">{level.ms:.3g}</th>{cells}<td>{escape(best)}: {escape(text)}</td>'
            "</tr>"
        )
    return table_html("latency", heads, rows)


def latency_pairs_html(found: EqualLatency, reference: str | None) -> str:
    """Return a table with one row per pair of different depth.

    Args:
        found: the verdicts.
        reference: label of the only configuration whose pairs are shown; None: all.
    """
    shown = [
        each
        for each in found.pairs
        if reference is None or reference in (each.pair.first, each.pair.second)
    ]
    if not shown:
        return ""
    heads = heads_html(
        "lower loss", "compared with", "difference", "time ratio", "at equal latency"
    )
    rows = ""
    for each in shown:
        kind, word = CELLS.get(each.verdict, ("same", f"open: {each.pair.verdict} in loss"))
        difference = MISSING if each.pair.difference is None else signed_text(each.pair.difference)
        rows += (
            f'<tr><th scope="row">{escape(each.pair.first)}</th><td>{escape(each.pair.second)}</td>'
            f"<td>{escape(difference)}</td><td>{escape(str(each.ratio))}</td>"
            f'<td class="{kind}">{escape(word)}</td></tr>'
        )
    return table_html("latency", heads, rows)


def _most(budget: Budget) -> str:
    return budget.largest_label if budget.largest > budget.smallest else MISSING
