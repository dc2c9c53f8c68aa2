"""Final loss against depth and against what a model costs."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mobilellm.report.budgets import budget_groups
from mobilellm.report.drawing import MUTED, Point, label_points, mark_style, palette
from mobilellm.report.findings import kinds
from mobilellm.report.reference_lines import loss_metric, loss_unit, reference_lines
from mobilellm.report.runs import Run
from mobilellm.report.shapes import Shape
from mobilellm.report.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mobilellm.report.comparison import Comparison

EQUAL_COSTS = 1.001
"""Shapes whose costs are within this factor stand in one place: there is nothing to see."""


@dataclass(frozen=True)
class _Mark:
    shape: Shape
    colour: str
    x: float
    interval: Interval


def against_depth(comparison: "Comparison") -> "Figure | None":
    """Final loss against layers run, where depths differ; shapes of equal budget are joined."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    marks = _marks(comparison, lambda run: run.model.num_layers)
    depths = sorted({mark.x for mark in marks})
    marks = _side_by_side(marks)
    if len(depths) < 2:
        return None
    figure = Figure(figsize=(8.2, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    axes.set_xticks(depths, [f"{depth:.0f}" for depth in depths])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("depth (layers run per token, logarithmic axis)")
    lines = [
        _joined(kind, marks)
        for group in budget_groups(comparison.shapes)
        for kind in kinds([shape for shape in group if not shape.is_shared])
    ]
    for line in lines:
        if line:
            axes.plot(*zip(*line, strict=True), color=MUTED, linewidth=1, zorder=1)
    segments = [segment for line in lines for segment in itertools.pairwise(line)]
    _draw_marks(axes, comparison, marks, segments)
    return figure


def against_cost(
    comparison: "Comparison", label: str, cost: Callable[[Run], float | None]
) -> "Figure | None":
    """Final loss against a cost, where shapes differ in it, with the Pareto front."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    marks = _marks(comparison, cost)
    costs = [mark.x for mark in marks]
    if len(marks) < 2 or max(costs) < EQUAL_COSTS * min(costs):
        return None
    figure = Figure(figsize=(8.2, 4.4), layout="constrained")
    axes = figure.subplots()
    is_wide = max(costs) > 3 * min(costs)
    if is_wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel(f"{label} (logarithmic axis)" if is_wide else label)
    front = pareto_front([(mark.x, mark.interval.mean) for mark in marks])
    _draw_marks(axes, comparison, marks, (), front)
    return figure


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Points than which no other is at most as large in both coordinates, in order of the first."""
    front: list[Point] = []
    for point in sorted(set(points)):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def _marks(comparison: "Comparison", position: Callable[[Run], float | None]) -> list[_Mark]:
    """A mark for each shape that has both a place and a loss."""
    colours = palette(len(comparison.shapes))
    found = []
    for shape, colour in zip(comparison.shapes, colours, strict=True):
        x, interval = position(shape.first), shape.interval(loss_metric(comparison))
        if x and interval:
            found.append(_Mark(shape, colour, x, interval))
    return found


def _side_by_side(marks: Sequence[_Mark]) -> list[_Mark]:
    """Marks of one depth set a little apart, so that none hides another."""
    apart = []
    for mark in marks:
        same = [other.shape.label for other in marks if other.x == mark.x]
        place = same.index(mark.shape.label) - (len(same) - 1) / 2
        apart.append(replace(mark, x=mark.x * 1.05**place))
    return apart


def _joined(group: Sequence[Shape], marks: Sequence[_Mark]) -> list[Point]:
    """The line through shapes of one budget and kind; none where two are equally deep."""
    labels = {shape.label for shape in group}
    members = [mark for mark in marks if mark.shape.label in labels]
    depths = {mark.shape.model.num_layers for mark in members}
    is_line = len(depths) == len(members) > 1
    return [(mark.x, mark.interval.mean) for mark in members] if is_line else []


def _draw_marks(
    axes: "Axes",
    comparison: "Comparison",
    marks: Sequence[_Mark],
    segments: Sequence[tuple[Point, Point]],
    front: Sequence[Point] = (),
) -> None:
    """Means with intervals, single seeds, the Pareto front, and names clear of `segments`."""
    bars = []
    for mark in marks:
        losses = list(mark.shape.losses(loss_metric(comparison)).values())
        mean, half_width = mark.interval.mean, mark.interval.half_width or 0.0
        axes.plot([mark.x] * len(losses), losses, "_", color=mark.colour, markersize=9, alpha=0.7)
        axes.errorbar(
            mark.x, mean, yerr=half_width or None, color=mark.colour, markersize=7, capsize=3,
            linewidth=1.4, markeredgewidth=1.6, zorder=3, **mark_style(mark.shape, mark.colour),
        )  # fmt: skip
        bars.append(((mark.x, mean - half_width), (mark.x, mean + half_width)))
    axes.margins(x=0.1, y=0.1)
    axes.set_ylabel(f"final validation loss ({loss_unit(comparison)})")
    bars += [*segments, *(_draw_front(axes, front) if front else ())]
    reference_lines(axes, comparison)
    points = [(mark.x, mark.interval.mean) for mark in marks]
    label_points(axes, points, [mark.shape.label for mark in marks], bars)


def _draw_front(axes: "Axes", front: Sequence[Point]) -> Iterable[tuple[Point, Point]]:
    """From the top of the axes down to each point and on to the right end; gives the segments."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    corners = [(front[0][0], top)]
    for cost, loss in front:
        corners += [(cost, corners[-1][1]), (cost, loss)]
    corners.append((right, front[-1][1]))
    axes.plot(*zip(*corners, strict=True), color=MUTED, linewidth=1.2, linestyle=":", zorder=1)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    return itertools.pairwise(corners)
