"""The report as one page that needs nothing beside it."""

import base64
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from mobilellm.report.drawing import DARK_RANGE, palette
from mobilellm.report.findings import UNIT, question
from mobilellm.report.methods import methods
from mobilellm.report.page_style import SCRIPT, style_text
from mobilellm.report.page_tables import leaderboard_html, matrix_html, reference_html, shapes_html
from mobilellm.report.pair_rows import reference_caption
from mobilellm.report.records import csv_text, json_text
from mobilellm.report.statistics import MINIMUM_SEEDS
from mobilellm.report.table import reference_sentence
from mobilellm.units import plural

if TYPE_CHECKING:
    from mobilellm.report.comparison import Comparison
    from mobilellm.report.plots import Plot


def page_text(comparison: "Comparison", drawings: "Sequence[tuple[Plot, str]]") -> str:
    """The whole page as HTML.

    Args:
        comparison: what is reported.
        drawings: plots with their SVG.
    """
    number = len(comparison.shapes)
    style = style_text(palette(number), palette(number, DARK_RANGE))
    body = "\n".join(
        [
            f"<h1>{escape(comparison.title)}</h1>",
            _question(comparison),
            _findings(comparison),
            _warnings(comparison),
            _shapes(comparison),
            _compressed(comparison),
            _pairs(comparison),
            _left_out(comparison),
            *(_figure(plot, svg) for plot, svg in drawings),
            _methods(comparison) if comparison.shapes else "",
            _downloads(comparison, drawings),
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(comparison.title)}</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _question(comparison: "Comparison") -> str:
    if not comparison.shapes:
        return '<p class="question">What do compressed models cost, and what do they lose?</p>'
    text = question(comparison.shapes, comparison.metric)
    return f'<p class="question">{escape(text)}</p>'


def _shapes(comparison: "Comparison") -> str:
    if not comparison.shapes:
        return ""
    return (
        f"<h2>The shapes</h2>{shapes_html(comparison)}"
        f'<p class="small">{escape(reference_sentence(comparison.shapes))} A shape is named '
        "by stored blocks × width. Body: without the embedding; executed: counted each time "
        "it runs; FLOPs: of training, attention included; loss: nats per token; ±: 95 % "
        "interval over seeds. Click a heading to sort.</p>"
    )


def _compressed(comparison: "Comparison") -> str:
    if not comparison.compressed:
        return ""
    return (
        f"<h2>Compressed models</h2>{leaderboard_html(comparison)}"
        '<p class="small">On disk: the weights’ files; ratio: parameters that are not masked to '
        "zero, as a share of the dense model’s; loss: nats per token; to dense: the loss minus the "
        "dense model’s on the same text; milliseconds and memory as measured where the model was "
        "compressed. Compressed: not trained since; recovered: trained since, mean over seeds.</p>"
    )


def _findings(comparison: "Comparison") -> str:
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in comparison.findings)
    return f'<section class="verdict" aria-label="Verdict">{sentences}</section>'


def _warnings(comparison: "Comparison") -> str:
    """Grave cautions stand out; the others are small print."""

    def items(is_grave: bool) -> str:
        return "".join(
            f"<li><b>{escape(caution.kind)}:</b> {escape(caution.message)}</li>"
            for caution in comparison.cautions
            if caution.is_grave == is_grave
        )

    grave, notes = items(True), items(False)
    parts = []
    if grave:
        parts.append(f'<section class="warnings"><h2>Read with care</h2><ul>{grave}</ul></section>')
    if notes:
        parts.append(f'<section class="notes"><ul>{notes}</ul></section>')
    return "\n".join(parts)


def _pairs(comparison: "Comparison") -> str:
    if not comparison.pairs:
        return ""
    if comparison.reference is not None:
        caption = reference_caption(comparison)
        return (
            f'<h2>Against {escape(comparison.reference)}</h2><p class="small">{escape(caption)}</p>'
            f"{reference_html(comparison)}"
        )
    unit = UNIT[comparison.metric or "val_loss"]
    tested = sum(pair.p_value is not None for pair in comparison.pairs)
    caption = (
        f"Each row as compared with each column: difference in {unit} with its 95 % interval, "
        "negative where the row is lower (better). Differences are taken seed by seed; a verdict "
        f"needs {MINIMUM_SEEDS} common seeds and survives Holm’s correction over "
        f"{plural(tested, 'pair')}, the intervals are not corrected, so that one which leaves out "
        "zero can still be “not distinguishable”."
    )
    return f'<h2>Every pair</h2>{matrix_html(comparison)}<p class="small">{escape(caption)}</p>'


def _left_out(comparison: "Comparison") -> str:
    items = [
        f"<li><code>{escape(str(run.folder))}</code> {escape(run.status)}: "
        f"{escape(run.reason)}</li>"
        for run in comparison.left_out
    ]
    if comparison.num_probes:
        probes = plural(comparison.num_probes, "learning-rate probe run")
        items.append(f"<li>{probes}: shorter by design, never compared</li>")
    return f"<h2>Not compared</h2><ul>{''.join(items)}</ul>" if items else ""


def _figure(plot: "Plot", svg: str) -> str:
    kind = "" if "tokens" in plot.name or "flops" in plot.name or "time" in plot.name else "narrow"
    return (
        f'<figure class="{kind}"><h3>{escape(plot.title)}</h3>\n'
        f'<div role="img" aria-label="{escape(plot.title)}">{svg}</div>\n'
        f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
    )


def _methods(comparison: "Comparison") -> str:
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{'<br>'.join(escape(line) for line in lines)}</dd>"
        for name, lines in methods(comparison)
    )
    return f"<h2>How it was measured</h2><dl>{rows}</dl>"


def _downloads(comparison: "Comparison", drawings: "Sequence[tuple[Plot, str]]") -> str:
    """Data inside the page; the plots as files beside it."""
    links = [
        _data_link("comparison.csv", "text/csv", csv_text(comparison), "a row a run"),
        _data_link("comparison.json", "application/json", json_text(comparison), "everything"),
        *(f'<a href="{plot.name}.png">{plot.name}.png</a>' for plot, _ in drawings),
    ]
    return f"<h2>Files</h2><p>{' · '.join(links)}</p>"


def _data_link(name: str, kind: str, text: str, meaning: str) -> str:
    data = base64.b64encode(text.encode()).decode()
    link = f"data:{kind};charset=utf-8;base64,{data}"
    return f'<a download="{name}" href="{link}">{name}</a> ({meaning})'
