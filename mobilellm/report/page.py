"""The report as one self-contained HTML page."""

import base64
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from mobilellm.report.analysis import Analysis
from mobilellm.report.budgets import MEASURED_TOLERANCE, TOLERANCE
from mobilellm.report.drawing import DARK_RANGE, palette
from mobilellm.report.equal_latency import NOT_SLOWER
from mobilellm.report.evaluated_runs import evaluated_runs
from mobilellm.report.evaluated_table import CAPTION
from mobilellm.report.findings import UNIT, question
from mobilellm.report.ladder_tables import ladder_html
from mobilellm.report.latency_tables import held_equal_html, latency_pairs_html, levels_html
from mobilellm.report.methods import methods
from mobilellm.report.page_style import SCRIPT, style_text
from mobilellm.report.page_tables import (
    evaluated_html,
    groups_html,
    leaderboard_html,
    matrix_html,
    rates_html,
    reference_html,
)
from mobilellm.report.pair_rows import reference_caption
from mobilellm.report.rate_curves import is_about_rates
from mobilellm.report.records import csv_text, json_text, pairs_csv_text
from mobilellm.report.statistics import MINIMUM_SEEDS
from mobilellm.report.table import reference_sentence
from mobilellm.units import plural

if TYPE_CHECKING:
    from mobilellm.report.plots import Plot


def page_text(analysis: Analysis, drawings: "Sequence[tuple[Plot, str]]") -> str:
    """Return the page as HTML.

    Args:
        analysis: content of the report.
        drawings: plots with their SVGs.
    """
    number = len(analysis.groups)
    style = style_text(palette(number), palette(number, DARK_RANGE))
    body = "\n".join(
        [
            f"<h1>{escape(analysis.title)}</h1>",
            _question(analysis),
            _findings(analysis),
            _warnings(analysis),
            _configurations(analysis),
            "" if analysis.ladder is None else ladder_html(analysis.ladder),
            _held_equal(analysis),
            _equal_latency(analysis),
            _compressed(analysis),
            _rates(analysis),
            _evaluated(analysis),
            _pairs(analysis),
            _left_out(analysis),
            *(_figure(plot, svg) for plot, svg in drawings),
            _methods(analysis) if analysis.groups else "",
            _downloads(analysis, drawings),
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(analysis.title)}</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _question(analysis: Analysis) -> str:
    if not analysis.groups:
        text = "How large and fast are the compressed models, and how much higher is their loss?"
    elif is_about_rates(analysis.groups, analysis.rate_curves):
        text = "Is the same learning rate best for all shapes?"
    else:
        text = question(analysis.groups, analysis.metric)
    return f'<p class="question">{escape(text)}</p>'


def _configurations(analysis: Analysis) -> str:
    if not analysis.groups:
        return ""
    return (
        f"<h2>Configurations</h2>{groups_html(analysis)}"
        f'<p class="small">{escape(reference_sentence(analysis.groups))} Labels begin '
        "with stored blocks × width. Body: parameters without the embedding; executed: parameters, "
        "counted once per application; FLOPs: of training, attention included; loss: nats per "
        "token; ±: 95 % interval over seeds. Click a heading to sort.</p>"
    )


def _held_equal(analysis: Analysis) -> str:
    if not analysis.held_equal:
        return ""
    return (
        f"<h2>What was held equal</h2>{held_equal_html(analysis)}"
        f'<p class="small">Equal: within ±{100 * TOLERANCE:.0f} % of the middle of the range; '
        f"measured latencies: within ±{100 * MEASURED_TOLERANCE:.0f} %. FLOPs: of training, "
        "attention included. Bytes of weights: scales of quantised formats are not counted, and "
        "norms have 16 bits.</p>"
    )


def _equal_latency(analysis: Analysis) -> str:
    found = analysis.equal_latency
    if not (found.pairs or found.levels):
        return ""
    return (
        f"<h2>At equal latency</h2>{levels_html(found)}"
        f"{latency_pairs_html(found, analysis.reference)}"
        f'<p class="small">{escape(str(analysis.latencies))} Ratio: time per token '
        "of the first, divided by that of the second, with its 95 % interval over rounds. A pair "
        "is decided at equal latency if the model with the lower loss is at most "
        f"{100 * NOT_SLOWER:.0f} % slower with confidence.</p>"
    )


def _compressed(analysis: Analysis) -> str:
    if not analysis.compressed:
        return ""
    return (
        f"<h2>Compressed models</h2>{leaderboard_html(analysis)}"
        '<p class="small">On disk: size of the weight files; ratio: unmasked parameters, relative '
        "to those of the dense model; loss: nats per token; vs. dense: difference from the loss of "
        "the dense model on the same text; milliseconds and memory were measured on the machine "
        "that compressed the model. Compressed: without training after compression; recovered: "
        "with training after compression, mean over seeds.</p>"
    )


def _rates(analysis: Analysis) -> str:
    if not analysis.rate_curves:
        return ""
    return (
        f"<h2>Best learning rates</h2>{rates_html(analysis)}"
        '<p class="small">Next lower, next higher: how much higher the loss is at the neighbouring '
        "rates. Estimate: minimum of a parabola through the best rate and its two neighbours, in "
        "the logarithm of the rate.</p>"
    )


def _evaluated(analysis: Analysis) -> str:
    found = evaluated_runs(analysis.groups)
    if found is None:
        return ""
    table = evaluated_html(found, [group.label for group in analysis.groups])
    return f'<h2>Benchmark tasks</h2>{table}<p class="small">{escape(CAPTION)}</p>'


def _findings(analysis: Analysis) -> str:
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in analysis.findings)
    return f'<section class="verdict" aria-label="Verdict">{sentences}</section>'


def _warnings(analysis: Analysis) -> str:
    """Serious cautions in a highlighted box; the others in small print."""

    def items(is_serious: bool) -> str:
        return "".join(
            f"<li><b>{escape(caution.kind)}:</b> {escape(caution.message)}</li>"
            for caution in analysis.cautions
            if caution.is_serious == is_serious
        )

    serious, notes = items(True), items(False)
    parts = []
    if serious:
        parts.append(f'<section class="warnings"><h2>Cautions</h2><ul>{serious}</ul></section>')
    if notes:
        parts.append(f'<section class="notes"><ul>{notes}</ul></section>')
    return "\n".join(parts)


def _pairs(analysis: Analysis) -> str:
    if not analysis.pairs:
        return ""
    if analysis.reference is not None:
        caption = reference_caption(analysis)
        return (
            f'<h2>Against {escape(analysis.reference)}</h2><p class="small">{escape(caption)}</p>'
            f"{reference_html(analysis)}{_power(analysis)}"
        )
    unit = UNIT[analysis.metric or "val_loss"]
    tested = sum(pair.p_value is not None for pair in analysis.pairs)
    caption = (
        f"Each row compared with each column: difference in {unit} with its 95 % interval, "
        "negative if the row has the lower (better) loss. Effects of the seeds are removed; a "
        f"verdict needs {MINIMUM_SEEDS} seeds. The intervals are corrected for "
        f"{plural(tested, 'pair')}: “better” and “worse” mean that the interval excludes zero."
    )
    if analysis.margin is not None:
        caption += f" “Equivalent”: the whole interval lies within ±{analysis.margin:g}."
    note = f'<p class="small">{escape(caption)}</p>'
    tables = "".join(
        (f"<h3>{escape(name)}</h3>" if name else "") + matrix_html(analysis, labels)
        for name, labels in analysis.blocks
    )
    return f"<h2>Pairwise comparison</h2>{tables}{note}{_power(analysis)}"


def _power(analysis: Analysis) -> str:
    """Return the noise, and the seeds that a difference takes."""
    return "".join(
        f'<p class="power">{escape(sentence)}</p>' for sentence in analysis.power_sentences
    )


def _left_out(analysis: Analysis) -> str:
    items = [
        f"<li><code>{escape(str(run.folder))}</code> {escape(run.status)}: "
        f"{escape(run.reason)}</li>"
        for run in analysis.left_out
    ]
    if analysis.num_probes:
        probes = plural(analysis.num_probes, "learning-rate probe run")
        items.append(f"<li>{probes}: shorter than the runs, and never compared</li>")
    return f"<h2>Not compared</h2><ul>{''.join(items)}</ul>" if items else ""


def _figure(plot: "Plot", svg: str) -> str:
    kind = "" if "tokens" in plot.name or "flops" in plot.name or "time" in plot.name else "narrow"
    return (
        f'<figure class="{kind}"><h3>{escape(plot.title)}</h3>\n'
        f'<div role="img" aria-label="{escape(plot.title)}">{svg}</div>\n'
        f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
    )


def _methods(analysis: Analysis) -> str:
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{'<br>'.join(escape(line) for line in lines)}</dd>"
        for name, lines in methods(analysis)
    )
    return f"<h2>How it was measured</h2><dl>{rows}</dl>"


def _downloads(analysis: Analysis, drawings: "Sequence[tuple[Plot, str]]") -> str:
    """Links to the data, which are part of the page, and to the plots in the same folder."""
    links = [
        _data_link("comparison.csv", "text/csv", csv_text(analysis), "one row per run"),
        _data_link("pairs.csv", "text/csv", pairs_csv_text(analysis), "one row per pair"),
        _data_link("comparison.json", "application/json", json_text(analysis), "all results"),
        *(f'<a href="{plot.name}.png">{plot.name}.png</a>' for plot, _ in drawings),
    ]
    return f"<h2>Files</h2><p>{' · '.join(links)}</p>"


def _data_link(name: str, kind: str, text: str, meaning: str) -> str:
    data = base64.b64encode(text.encode()).decode()
    link = f"data:{kind};charset=utf-8;base64,{data}"
    return f'<a download="{name}" href="{link}">{name}</a> ({meaning})'
