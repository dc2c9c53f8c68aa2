"""Plots of the loss during training against tokens, FLOPs and wall time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilellm.report.analysis import Analysis
from mobilellm.report.curves import MeanCurve, Points, mean_curve
from mobilellm.report.drawing import fix_layout, line_styles, palette, wrap_label
from mobilellm.report.reference_lines import loss_scale, loss_unit, reference_lines
from mobilellm.report.run_groups import RunGroup
from mobilellm.units import axis_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def against_tokens(analysis: Analysis) -> "Figure | None":
    """Draw the validation loss against training tokens; None without curves."""
    return _over_training(analysis, "training tokens", _tokens)


def against_flops(analysis: Analysis) -> "Figure | None":
    """Draw the validation loss against training FLOPs; None without curves."""
    return _over_training(analysis, "training FLOPs", _flops)


def against_time(analysis: Analysis) -> "Figure | None":
    """Draw the validation loss against wall time; None without curves or times."""
    return _over_training(analysis, None, _time)


LEGEND_ROW = 0.17
"""Height of one line of the legend, in inches."""

FEW_POINTS = 6
"""Curves with fewer points also get markers."""


@dataclass(frozen=True)
class _Line:
    group: RunGroup
    colour: str
    style: dict[str, Any]
    x: np.ndarray
    curve: MeanCurve


def _over_training(
    analysis: Analysis,
    unit: str | None,
    position: Callable[[RunGroup, MeanCurve], np.ndarray],
) -> "Figure | None":
    """Draw the whole training on a logarithmic axis, and beside it the end enlarged.

    Args:
        analysis: content of the report.
        unit: label of the horizontal axis; None: wall time in a suitable unit.
        position: computes the horizontal positions of a curve.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    lines = _lines(analysis, position)
    if not lines:
        return None
    if unit is None:
        seconds, unit = _time_unit(max(line.x[-1] for line in lines))
        lines = [replace(line, x=line.x / seconds) for line in lines]
    rows = sum(wrap_label(line.group.label).count("\n") + 1 for line in lines)
    figure = Figure(figsize=(9.6, max(3.9, 0.9 + LEGEND_ROW * rows)), layout="constrained")
    whole, end = figure.subplots(1, 2, width_ratios=[1, 1.15])
    for axes in (whole, end):
        for line in lines:
            _draw_line(axes, line)
        axes.xaxis.set_major_formatter(FuncFormatter(axis_text))
        axes.set_xlabel(unit)
    whole.set_ylabel(f"validation loss ({loss_unit(analysis)})")
    if _has_room_for_logarithms(lines):
        whole.set_xscale("log", nonpositive="mask")
        whole.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        whole.xaxis.set_major_formatter(FuncFormatter(axis_text))
        whole.xaxis.set_minor_formatter(NullFormatter())
        whole.set_title("whole training, logarithmic axis")
    else:
        whole.set_title("whole training")
    end.set_title("end of training, enlarged")
    reference_lines(whole, analysis)
    _enlarge_end(end, lines)
    end.legend(
        loc="center left", bbox_to_anchor=(1.02, 0.5), title=_legend_title(lines),
        fontsize=9, title_fontsize=9, alignment="left",
    )  # fmt: skip
    fix_layout(figure)
    return figure


def _has_room_for_logarithms(lines: Sequence[_Line]) -> bool:
    """Whether each line has at least two points at positive positions."""
    return all(np.count_nonzero(line.x > 0) > 1 for line in lines)


def _legend_title(lines: Sequence[_Line]) -> str:
    depths = {line.group.model.num_layers for line in lines}
    return "from wide\nto deep" if len(depths) > 1 else "configuration"


def _lines(
    analysis: Analysis, position: Callable[[RunGroup, MeanCurve], np.ndarray]
) -> list[_Line]:
    """A line for each configuration whose runs logged at least two validation losses."""
    found = []
    groups = analysis.groups
    styles = line_styles(groups)
    for group, colour, style in zip(groups, palette(len(groups)), styles, strict=True):
        curve = _group_curve(group, analysis.metric)
        if curve is not None and len(curve.tokens) > 1:
            x = position(group, curve)
            if np.isfinite(x).all():
                found.append(_Line(group, colour, style, x, curve))
    return found


def _draw_line(axes: "Axes", line: _Line) -> None:
    curve, label = line.curve, wrap_label(line.group.label)
    marks = {"marker": "o", "markersize": 4} if len(line.x) < FEW_POINTS else {}
    axes.plot(
        line.x, curve.mean, color=line.colour, linewidth=1.8, label=label, **line.style, **marks
    )
    axes.fill_between(line.x, curve.low, curve.high, color=line.colour, alpha=0.16, linewidth=0)


def _enlarge_end(axes: "Axes", lines: Sequence[_Line]) -> None:
    """Show only losses below the highest one that a configuration has at half of its tokens."""
    halves = [
        float(np.interp(0.5 * line.curve.tokens[-1], line.curve.tokens, line.curve.mean))
        for line in lines
    ]
    top, bottom = max(halves), min(float(line.curve.low[-1]) for line in lines)
    margin = 0.05 * (top - bottom) or 0.01
    firsts = [max(0, int(np.argmax(line.curve.mean <= top)) - 1) for line in lines]
    start = min(float(line.x[first]) for line, first in zip(lines, firsts, strict=True))
    stop = max(float(line.x[-1]) for line in lines)
    axes.set_ylim(bottom - margin, top + margin)
    axes.set_xlim(start, stop + 0.02 * (stop - start))


def _group_curve(group: RunGroup, metric: str | None) -> MeanCurve | None:
    """Validation loss over training, mean over seeds, in the unit of the analysis."""
    scaled = [
        Points(
            points.tokens,
            points.seconds,
            tuple(loss * loss_scale(run, metric) for loss in points.loss),
        )
        for run in group.runs
        if (points := run.curve.validation)
    ]
    return mean_curve(scaled) if len(scaled) == len(group.runs) else None


def _tokens(_: RunGroup, curve: MeanCurve) -> np.ndarray:
    return curve.tokens


def _flops(group: RunGroup, curve: MeanCurve) -> np.ndarray:
    return curve.tokens * group.first.flops_per_token["training"]


def _time(_: RunGroup, curve: MeanCurve) -> np.ndarray:
    return curve.seconds


def _time_unit(longest: float) -> tuple[float, str]:
    if longest < 300:
        return 1.0, "wall time of training (seconds)"
    if longest < 3 * 3600:
        return 60.0, "wall time of training (minutes)"
    return 3600.0, "wall time of training (hours)"
