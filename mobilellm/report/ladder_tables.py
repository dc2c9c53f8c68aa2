"""The tables of a ladder on the page: the law, the best depth of each size, and decisions."""

from collections.abc import Sequence
from html import escape

from mobilellm.report.ladder import Ladder
from mobilellm.report.ladder_decisions import SizeDecisions
from mobilellm.report.page_tables import heads_html, table_html
from mobilellm.units import count_text

MEANINGS = {
    "L0": "loss that no depth, width or number of tokens removes",
    "a": "coefficient of depth", "alpha": "exponent of depth",
    "b": "coefficient of width", "beta": "exponent of width",
    "c": "coefficient of tokens", "gamma": "exponent of tokens",
}  # fmt: skip


def ladder_html(ladder: Ladder) -> str:
    """Return the tables, each with a note."""
    parts = ["<h2>Ladder of sizes</h2>"]
    if ladder.law is not None:
        rows = [
            (name, MEANINGS[name], f"{value:.3g}", f"{low:.3g} to {high:.3g}")
            for name, (value, low, high) in ladder.law.parameters().items()
        ]
        parts += [
            "<h3>Law of the loss</h3>",
            _table(("parameter", "meaning", "value", "95 % interval"), rows),
            _note(
                "L = L0 + a D^-alpha + b W^-beta + c N^-gamma, in nats per token, with D the "
                "layers that run, W the width and N the training tokens. Intervals are of fits to "
                "resampled shapes and seeds. Single parameters are known less well than the losses "
                "that they predict together."
            ),
        ]
    if ladder.best_depths:
        rows = [
            (
                count_text(each.body),
                count_text(each.tokens),
                " ".join(f"{depth:g}" for depth in each.depths),
                each.sentence(),
                "–" if each.by_law is None else str(each.by_law),
            )
            for each in ladder.best_depths
        ]
        heads = ("body parameters", "tokens", "depths trained", "best depth, from the losses",
                 "by the law")  # fmt: skip
        parts += [
            "<h3>Best depth of each size</h3>",
            _table(heads, rows),
            _note(
                "From the losses: the vertex of a parabola in the logarithm of depth, between the "
                "smallest and the largest depth, with about 95 % confidence. By the law: the "
                "lowest loss of all shapes of the size, which may lie outside the depths trained."
            ),
        ]
    if ladder.decisions:
        parts.append("<h3>Decisions by smaller and shorter runs</h3>")
    return "".join([*parts, *(part for found in ladder.decisions for part in _decisions(found))])


def _decisions(decisions: SizeDecisions) -> list[str]:
    rows = [
        (
            count_text(row.body), count_text(row.tokens), f"{100 * row.share_of_flops:.2g} %",
            str(row.num_seeds), f"{100 * row.pairs:.0f} %", f"{100 * row.winner:.0f} %",
            f"{row.rank_correlation:.2f}",
        )
        for row in decisions.rows
    ]  # fmt: skip
    heads = ("body parameters", "tokens", "FLOPs", "seeds", "pairs in the same order",
             "same best depth", "rank correlation")  # fmt: skip
    note = (
        f"Complete runs of one seed, compared with the mean losses of "
        f"{count_text(decisions.body)} body parameters after {count_text(decisions.tokens)} "
        f"tokens, at depths {', '.join(map(str, decisions.depths))}; averages over seeds. FLOPs: "
        "of training, as a share of those of the runs they are compared with."
    )
    return [_table(heads, rows), _note(note)]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for first, *cells in rows
    )
    return table_html("rates", heads_html(*heads), body)


def _note(text: str) -> str:
    return f'<p class="small">{escape(text)}</p>'
