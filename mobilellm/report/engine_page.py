"""Profiles of engines as a page with plots: time to first token and speed of decoding."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from mobilellm.evaluation.engine_profile.results import CaseResult, EngineProfile
from mobilellm.files import write_text_atomically
from mobilellm.paths import check_unused
from mobilellm.report.device_fit import HEADS as FIT_HEADS
from mobilellm.report.device_fit import MemoryLimit, fit_rows, fit_sentences
from mobilellm.report.drawing import DARK_RANGE, INK, palette, plot_style, write_figure
from mobilellm.report.engine_profile import (
    SPEED_HEADS,
    START_HEADS,
    profile_sentences,
    short_number,
    speed_rows,
    start_rows,
)
from mobilellm.report.page_style import SCRIPT, style_text
from mobilellm.report.page_tables import heads_html, table_html

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE, PLOT = "index.html", "engine_speed"
TITLE = "Models in the engines of devices"


def check_page_folder(folder: Path) -> None:
    """Check before measuring that the page overwrites nothing but an earlier one.

    Raises:
        ValueError: the folder has other files.
    """
    check_unused("--page", folder, own=f"{PLOT}_1.png")


def write_engine_page(
    profiles: Sequence[EngineProfile], folder: Path, limit: MemoryLimit | None = None
) -> Path:
    """Write the page, and one plot for each profile; returns the page's path.

    Args:
        profiles: one section each.
        folder: a new one, or that of an earlier page, which is replaced.
        limit: also show what fits into this memory.

    Raises:
        ValueError: the folder has other files.
    """
    check_page_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in folder.glob(f"{PLOT}_*.png"):
        earlier.unlink()
    models = list(dict.fromkeys(r.case.model for p in profiles for r in p.results))
    sections = []
    for number, profile in enumerate(profiles, start=1):
        with plot_style():
            svg = write_figure(
                draw(profile, models), folder / f"{PLOT}_{number}.png", palette(len(models))
            )
        sections.append(_section(profile, svg, limit))
    style = style_text(palette(len(models)), palette(len(models), DARK_RANGE))
    text = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{TITLE}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{TITLE}</h1>\n<p class="question">How long do the models take to start, to read a '
        "prompt and to answer?</p>\n"
        f"{''.join(sections)}</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
    write_text_atomically(folder / PAGE, text)
    return folder / PAGE


def draw(profile: EngineProfile, models: Sequence[str]) -> "Figure":
    """Bars of each case at the longest prompt: medians, with lines to the 95th percentile.

    Args:
        profile: of one device.
        models: the names that have a colour, in their order.
    """
    from matplotlib.figure import Figure

    results = sorted(profile.results, key=lambda one: one.case.setting)
    figure = Figure(figsize=(9.6, 1.3 + 0.27 * len(results)), layout="constrained")
    first, speed = figure.subplots(1, 2, sharey=True)
    length = max(profile.plan.prompt_lengths)
    _bars(first, profile, results, models, "prefill_ms")
    first.set_xlabel(f"ms from a prompt of {length} tokens to the first token")
    _bars(speed, profile, results, models, "decode_ms")
    speed.set_xlabel("tokens decoded per second")
    first.set_yticks(
        range(len(results)), [f"{one.case.model}  {one.case.setting}" for one in results]
    )
    first.tick_params(axis="y", length=0)
    first.set_ylim(len(results) - 0.4, -0.6)
    return figure


def _bars(
    axes: "Axes",
    profile: EngineProfile,
    results: Sequence[CaseResult],
    models: Sequence[str],
    name: str,
) -> None:
    lengths = profile.plan.prompt_lengths
    place = lengths.index(max(lengths))
    colours = dict(zip(models, palette(len(models)), strict=True))
    for row, result in enumerate(results):
        spread = result.spread(name, place)
        if spread is None:
            continue
        middle, slow = spread.median, spread.p95
        if name == "decode_ms":
            middle, slow = 1000 / middle, 1000 / slow
        axes.barh(row, middle, height=0.72, color=colours[result.case.model])
        axes.plot([middle, slow], [row, row], color=INK, linewidth=1.1)
        axes.annotate(
            short_number(middle), (max(middle, slow), row), (4, 0), fontsize=8, va="center",
            textcoords="offset points",
        )  # fmt: skip
    axes.margins(x=0.12)
    axes.grid(visible=False, axis="y")


def _section(profile: EngineProfile, svg: str, limit: MemoryLimit | None) -> str:
    lines = "".join(f"<p>{escape(sentence)}</p>" for sentence in profile_sentences(profile))
    parts = [
        f"<h2>{escape(profile.device)}</h2>",
        f'<figure><h3>Time to first token, and decoding</h3><div role="img" '
        f'aria-label="Time to first token and speed of decoding">{svg}</div><figcaption>Medians '
        "over rounds in alternation; lines end at the slow 95th percentile.</figcaption></figure>",
        "<h3>Start and memory</h3>", _table(START_HEADS, start_rows(profile)),
        "<h3>Speed</h3>", _table(SPEED_HEADS, speed_rows(profile)),
        f'<div class="small">{lines}</div>',
    ]  # fmt: skip
    if limit is not None:
        said = "".join(f"<p>{escape(text)}</p>" for text in fit_sentences(profile, limit))
        parts += ["<h3>What fits</h3>", _table(FIT_HEADS, fit_rows(profile, limit)),
                  f'<div class="small">{said}</div>']  # fmt: skip
    return "\n".join(parts) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    return table_html("sortable", heads_html(*heads), body)
