"""The ranking of shapes as one HTML page with a plot."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from mobilellm.files import write_text_atomically
from mobilellm.models.config import ModelConfig
from mobilellm.models.shape_name import shape_name
from mobilellm.report.drawing import (
    DARK_RANGE,
    MUTED,
    label_points,
    palette,
    plot_style,
    write_figure,
)
from mobilellm.report.page_style import SCRIPT, style_text
from mobilellm.report.shape_ranking import Ranking
from mobilellm.report.shape_ranking_text import HEADS, cells, sentences, tau_sentence
from mobilellm.units import count_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "index.html"
PLOT = "ranking"
COLOURS = 2


def write_page(ranking: Ranking, folder: Path) -> Path:
    """Write the plot as PNG and the page; returns the page's path."""
    colours = palette(COLOURS)
    with plot_style():
        svg = write_figure(draw(ranking, colours), folder / f"{PLOT}.png", colours)
    write_text_atomically(folder / PAGE, _page(ranking, svg))
    return folder / PAGE


def draw(ranking: Ranking, colours: list[str]) -> "Figure":
    """Score against the loss of models trained alone, and against body parameters."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure(figsize=(10.4, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    judged = [row for row in ranking.shapes if row.alone is not None]
    losses = [row.alone or 0.0 for row in judged]
    left.plot(losses, [row.score for row in judged], "o", color=colours[1])
    left.set_xlabel("loss of the shape trained alone, nats per token")
    left.set_ylabel("loss of the slice, nats per token")
    left.set_title(f"Kendall's τ {ranking.tau.value:.2f} "
                   f"[{ranking.tau.low:.2f}, {ranking.tau.high:.2f}]")  # fmt: skip
    for rows, colour, label in (
        ([row for row in ranking.shapes if row.alone is None], MUTED, "ranked only"),
        (judged, colours[1], "also trained alone"),
    ):
        right.plot([row.body for row in rows], [row.score for row in rows], "o",
                   color=colour, label=label, markersize=5)  # fmt: skip
    right.set_xscale("log")
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count_text(value)))
    right.xaxis.set_minor_formatter(NullFormatter())
    right.set_xlabel("body parameters, logarithmic axis")
    right.set_ylabel("loss of the slice, nats per token")
    right.set_title(f"{len(ranking.shapes)} shapes")
    right.legend()
    names = _labels([row.shape for row in judged])
    label_points(left, [(x, row.score) for x, row in zip(losses, judged, strict=True)], names)
    return figure


def _labels(shapes: Sequence[ModelConfig]) -> list[str]:
    """Blocks × width, with the channels and heads if they differ between the shapes."""
    fields = ("intermediate_size", "num_attention_heads", "num_key_value_heads")
    varying = [name for name in fields if len({getattr(shape, name) for shape in shapes}) > 1]
    return [
        "/".join([shape_name(shape), *(str(getattr(shape, n)) for n in
                  varying)])
        for shape in shapes
    ]  # fmt: skip


def _page(ranking: Ranking, svg: str) -> str:
    title = "Shapes ranked by a supernet"
    style = style_text(palette(COLOURS), palette(COLOURS, DARK_RANGE))
    found = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences(ranking))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n"
        f"</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
        '<p class="question">Which shape is best, without training each of them?</p>'
        f'<section class="verdict" aria-label="Verdict">{found}</section>\n'
        f'<figure><h3>Scores and losses</h3><div role="img" aria-label="Scores and losses">{svg}'
        "</div><figcaption>Left: each point is a shape that was trained alone; a perfect ranking "
        "rises from left to right without exception. Slices have higher losses than models that "
        "were trained alone, so only the order counts. Right: all ranked shapes.</figcaption>"
        f"</figure>\n<h2>{escape(tau_sentence(ranking))}</h2>\n{_rows(ranking)}\n"
        f'<p class="small">{_method(ranking)}</p>\n'
        f"</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _rows(ranking: Ranking) -> str:
    header = "".join(f"<th>{head}</th>" for head in HEADS)
    body = "".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells(place, row)) + "</tr>"
        for place, row in enumerate(ranking.shapes, start=1)
    )
    return (
        '<div class="scroll"><table class="sortable"><thead><tr>'
        f"{header}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _method(ranking: Ranking) -> str:
    return escape(
        f"Score: validation loss of the slice on {ranking.validation_tokens:,} tokens. Alone: "
        f"final validation loss of the shape trained alone on {ranking.alone[0].tokens:,} tokens, "
        f"the mean over seeds; the supernet was trained on {ranking.supernet.tokens:,}. The "
        "interval of τ is the percentile bootstrap over models, which is too narrow if τ is close "
        "to 1 and models are few. Times depend on what else the machine did; FLOPs do not."
    )
