"""The head start of inherited weights as a table, sentences, records, a plot and a page."""

from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.files import write_text_atomically
from mobilellm.paths import check_unused
from mobilellm.report.drawing import DARK_RANGE, palette, plot_style, write_figure
from mobilellm.report.head_start import HeadStart, HeadStartRow
from mobilellm.report.page_style import SCRIPT, style_text
from mobilellm.strict_json import to_json
from mobilellm.units import count_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

JSON, PAGE, PLOT = "head_start.json", "index.html", "head_start"
HEADS = ("tokens", "random weights", "inherited", "times fewer tokens", "of each seed")


def sentences(found: HeadStart) -> list[str]:
    """What was found."""
    rated = [row for row in found.rows if row.ratio is not None]
    first, last = rated[0], rated[-1]
    lines = [
        f"Weights inherited from {found.origin} reach on {count_text(first.tokens)} tokens what "
        f"random weights reach on {first.ratio} times as many"
        + (
            f", and on {count_text(last.tokens)} tokens what they reach on {last.ratio} times as "
            "many."
            if last is not first
            else "."
        ),
        "The training of the larger model is not counted. A head start usually shrinks as the "
        "budget grows, so a ratio says nothing about larger budgets than those trained here.",
    ]
    return lines


def cells(row: HeadStartRow) -> tuple[str, ...]:
    """The texts of one row, in the order of `HEADS`."""
    return (
        count_text(row.tokens),
        "" if row.random is None else f"{row.random:.4f}",
        "" if row.inherited is None else f"{row.inherited:.4f}",
        "" if row.ratio is None else row.ratio.short,
        ", ".join(ratio.short for ratio in row.by_seed),
    )


def table(found: HeadStart) -> "Table":
    """One row per number of tokens."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in HEADS:
        made.add_column(head, justify="right")
    for row in found.rows:
        made.add_row(*cells(row))
    return made


def record(found: HeadStart) -> dict[str, Any]:
    """Plain data for JSON."""
    return {
        "origin": found.origin,
        "model": found.runs[0].model.to_dict(),
        "runs": [str(run.folder) for run in found.runs],
        "rows": [asdict(row) for row in found.rows],
    }


def check_report_folder(folder: Path) -> None:
    """Check before any work that the report overwrites nothing but an earlier one.

    Raises:
        ValueError: the folder has other files, or cannot be written.
    """
    check_unused("--out", folder, own=JSON)


def write_report(found: HeadStart, folder: Path) -> Path:
    """Write JSON, plot and page; returns the page's path.

    Raises:
        ValueError: see `check_report_folder`.
    """
    check_report_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder / JSON, to_json(record(found)) + "\n")
    colours = palette(2)
    with plot_style():
        svg = write_figure(draw(found, colours), folder / f"{PLOT}.png", colours)
    write_text_atomically(folder / PAGE, _page(found, svg))
    return folder / PAGE


def draw(found: HeadStart, colours: list[str]) -> "Figure":
    """Loss against tokens of both kinds of runs."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure(figsize=(7.6, 4.4), layout="constrained")
    axes = figure.subplots()
    for name, colour, label in (
        ("random", colours[0], "random weights"),
        ("inherited", colours[1], "inherited weights"),
    ):
        points = [(r.tokens, getattr(r, name)) for r in found.rows if getattr(r, name) is not None]
        axes.plot(*zip(*points, strict=True), "o-", color=colour, label=label)
    for row in found.rows:
        if row.ratio is not None:
            axes.annotate(f"{row.ratio.short} ×", (row.tokens, row.inherited or 0.0), (0, -14),
                          textcoords="offset points", ha="center", fontsize=9)  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count_text(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks([row.tokens for row in found.rows])
    axes.margins(y=0.15)
    axes.set_xlabel("training tokens of the run, logarithmic axis")
    axes.set_ylabel("final validation loss, nats per token")
    axes.legend()
    return figure


def _page(found: HeadStart, svg: str) -> str:
    title = "Head start of inherited weights"
    style = style_text(palette(2), palette(2, DARK_RANGE))
    lines = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences(found))
    header = "".join(f"<th>{head}</th>" for head in HEADS)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells(row)) + "</tr>"
        for row in found.rows
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{title}</h1>\n<p class="question">How many tokens does a model save that starts '
        "from the weights of a larger one?</p>\n"
        f'<section class="verdict" aria-label="Verdict">{lines}</section>\n'
        f'<figure class="narrow"><h3>Loss against tokens</h3><div role="img" '
        f'aria-label="Loss against tokens">{svg}</div><figcaption>Every point is the end of '
        "complete runs, the mean over seeds. Numbers: tokens that random weights need for the same "
        "loss, as a multiple.</figcaption></figure>\n"
        f'<div class="scroll"><table class="sortable"><thead><tr>{header}</tr></thead><tbody>{rows}'
        "</tbody></table></div>\n"
        f"</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
