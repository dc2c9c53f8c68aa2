"""The results of a search as one self-contained HTML page, as plots, JSON and a model file."""

from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

import yaml

from mobilellm.files import write_text_atomically
from mobilellm.models import ModelConfig
from mobilellm.report.drawing import plot_style, write_figure
from mobilellm.report.page_style import SCRIPT, style_text
from mobilellm.report.search.findings import findings
from mobilellm.report.search.plots import COLOURS, PLOTS, SearchPlot
from mobilellm.report.search.results import SearchResults, TrialResult
from mobilellm.strict_json import to_json
from mobilellm.units import join_names

DARK = ("#6fb3d9", "#f09a8e")
COSTS_SHOWN = ("body", "bytes", "flops", "latency_ms")
MOST_ROWS = 200


def write_search_page(results: SearchResults, folder: Path, *, notes: Sequence[str] = ()) -> Path:
    """Write index.html, search.json and the plots; returns the page.

    Args:
        results: of the study.
        folder: of the report; earlier files in it are replaced.
        notes: further sentences, such as the command that trains the winner.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawings = []
    with plot_style():
        for plot in PLOTS:
            figure = plot.draw(results)
            if figure is not None:
                svg = write_figure(figure, folder / f"{plot.name}.png", COLOURS)
                drawings.append((plot, svg))
    write_text_atomically(folder / "search.json", to_json(record(results)) + "\n")
    page = folder / "index.html"
    write_text_atomically(page, page_text(results, drawings, notes))
    return page


def page_text(
    results: SearchResults, drawings: Sequence[tuple[SearchPlot, str]], notes: Sequence[str]
) -> str:
    """The page as HTML."""
    verdict = "".join(f"<p>{escape(sentence)}</p>" for sentence in findings(results))
    figures = "\n".join(
        f"<figure><h3>{escape(plot.title)}</h3>\n"
        f'<div role="img" aria-label="{escape(plot.title)}">{svg}</div>\n'
        f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
        for plot, svg in drawings
    )
    names = join_names([f"{one.superlative} {one.name}" for one in results.objectives])
    body = "\n".join(
        [
            f"<h1>{escape(results.name)}</h1>",
            f'<p class="question">Which shapes have the {escape(names)} within the limits?</p>',
            f'<section class="verdict" aria-label="Verdict">{verdict}</section>',
            "".join(f"<p>{escape(note)}</p>" for note in notes),
            figures,
            _importance(results),
            _finalists(results),
            f"<h2>Trials</h2>{_table(results)}",
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(results.name)}</title>\n<style>{style_text(COLOURS, DARK)}</style>\n"
        f"</head>\n<body>\n<main>\n{body}\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _importance(results: SearchResults) -> str:
    if not results.importance:
        return ""
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{100 * share:.0f} %</td></tr>"
        for name, share in results.importance.items()
    )
    return (
        "<h2>Importance of the settings</h2><table><thead><tr><th>setting</th><th>share</th></tr>"
        f'</thead><tbody>{rows}</tbody></table><p class="small">Share in what tells the best tenth '
        "of the finished trials from the others (PED-ANOVA). With few trials it is uncertain.</p>"
    )


def _finalists(results: SearchResults) -> str:
    if not results.finalists:
        return ""
    rows = "".join(
        f"<tr><th>{one.number}</th><td>{one.short:.4f}</td><td>{one.mean:.4f}</td>"
        f"<td>{len(one.losses)}</td></tr>"
        for one in sorted(results.finalists, key=lambda one: one.mean)
    )
    return (
        "<h2>Finalists</h2><table><thead><tr><th>trial</th><th>loss in the search</th>"
        f"<th>mean loss after longer training</th><th>seeds</th></tr></thead><tbody>{rows}</tbody>"
        "</table>"
    )


def _table(results: SearchResults) -> str:
    shown = [name for name in COSTS_SHOWN if all(name in t.record.costs for t in results.trials)]
    objectives = [one.name for one in results.objectives]
    costs = [name for name in shown if name not in objectives]
    heads = ["trial", "status", "settings", *objectives, "tokens", *costs]
    ended = [one for one in results.trials if one.trial.values is None]
    with_values = [one for one in results.trials if one.trial.values is not None]
    order = [*sorted(with_values, key=lambda one: (one.trial.status, results.scores(one))), *ended]
    rows = "".join(_row(results, one, heads) for one in order[:MOST_ROWS])
    return (
        '<div class="scroll"><table class="sortable"><thead><tr>'
        f"{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(results: SearchResults, one: TrialResult, heads: Sequence[str]) -> str:
    values = dict(zip([o.name for o in results.objectives], one.trial.values or (), strict=False))
    cells = [f'<th data-value="{one.record.number}">{one.record.number}</th>',
             f"<td>{escape(one.trial.status)}</td>",
             f'<td style="text-align: left">{escape(one.label)}</td>']  # fmt: skip
    for head in heads[3:]:
        value = one.tokens if head == "tokens" else values.get(head, one.record.costs.get(head))
        if value is None:
            cells.append("<td>–</td>")
            continue
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        cells.append(f'<td data-value="{value}">{text}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def record(results: SearchResults) -> dict[str, object]:
    """The results as plain data for JSON."""
    return {
        "name": results.name,
        "sampler": results.sampler,
        "objectives": [one.text for one in results.objectives],
        "findings": findings(results),
        "front": [one.record.number for one in results.front],
        "importance": dict(results.importance),
        "tokens": results.tokens_used,
        "share_saved": results.share_saved,
        "rank_correlation": results.rank_correlation,
        "finalists": [
            {"trial": one.number, "short": one.short, "losses": dict(one.losses)}
            for one in results.finalists
        ],
        "latency_check": None if results.latency_check is None else asdict(results.latency_check),
        "trials": [
            {
                "number": one.record.number, "status": one.trial.status, "run": one.record.run,
                "settings": dict(one.record.settings), "costs": dict(one.record.costs),
                "values": one.trial.values, "tokens": one.tokens, "origin": one.record.origin,
            }
            for one in results.trials
        ],
    }  # fmt: skip


def write_model_file(folder: Path, name: str, model: ModelConfig, source: str) -> Path:
    """Write a shape as a file of the group `model`, in a folder laid out like conf/.

    Args:
        folder: that is given as `--config-dir`.
        name: of the choice: `model=<name>`.
        model: the shape.
        source: of the shape, for the comment.
    """
    path = folder / "model" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"_target_": "mobilellm.models.ModelConfig", **model.to_dict()}
    write_text_atomically(path, f"# Source: {source}\n{yaml.safe_dump(content, sort_keys=False)}")
    return path
