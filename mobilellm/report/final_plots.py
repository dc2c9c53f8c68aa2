"""Plots of the final loss against depth, size and speed."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mobilellm.report.analysis import Analysis
from mobilellm.report.budgets import split_by_budget
from mobilellm.report.depth_ranges import group_by_kind
from mobilellm.report.drawing import MUTED, Point, label_points, mark_style, palette
from mobilellm.report.reference_lines import loss_metric, loss_unit, reference_lines
from mobilellm.report.run_groups import RunGroup
from mobilellm.report.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


EQUAL_COSTS = 1.001
"""If all costs are equal within this factor, there is no plot."""


@dataclass(frozen=True)
class _Mark:
    group: RunGroup
    colour: str
    x: float
    interval: Interval


def against_depth(analysis: Analysis) -> "Figure | None":
    """Draw the final loss against depth; lines connect configurations of equal budget.

    Returns:
        None if all depths are equal.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    marks = _marks(analysis, lambda group: group.model.num_layers)
    depths = sorted({mark.x for mark in marks})
    marks = _shift_equal_depths(marks)
    if len(depths) < 2:
        return None
    figure = Figure(figsize=(8.2, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    axes.set_xticks(depths, [f"{depth:.0f}" for depth in depths])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("depth (layers run per token, logarithmic axis)")
    lines = [
        _connecting_line(kind, marks)
        for subset in split_by_budget(analysis.groups)
        for kind in group_by_kind([group for group in subset if not group.is_shared])
    ]
    for line in lines:
        if line:
            axes.plot(*zip(*line, strict=True), color=MUTED, linewidth=1, zorder=1)
    segments = [segment for line in lines for segment in itertools.pairwise(line)]
    _draw_marks(axes, analysis, marks, segments)
    return figure


def against_cost(
    analysis: Analysis, label: str, cost: Callable[[RunGroup], float | None]
) -> "Figure | None":
    """Draw the final loss against a cost, with the Pareto front.

    Args:
        analysis: content of the report.
        label: of the axis.
        cost: reads the cost of a configuration; None: unknown.

    Returns:
        None if all costs are equal, or fewer than two are known.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    marks = _marks(analysis, cost)
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
    _draw_marks(axes, analysis, marks, (), front)
    return figure


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other point dominates, in order of the first coordinate.

    Lower is better in both coordinates.
    """
    front: list[Point] = []
    for point in sorted(set(points)):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def _marks(analysis: Analysis, position: Callable[[RunGroup], float | None]) -> list[_Mark]:
    """A marker for each configuration with a known position and loss."""
    colours = palette(len(analysis.groups))
    found = []
    for group, colour in zip(analysis.groups, colours, strict=True):
        x, interval = position(group), group.interval(loss_metric(analysis))
        if x and interval:
            found.append(_Mark(group, colour, x, interval))
    return found


def _shift_equal_depths(marks: Sequence[_Mark]) -> list[_Mark]:
    """Shift markers of equal depth a little, so that they do not overlap."""
    apart = []
    for mark in marks:
        same = [other.group.label for other in marks if other.x == mark.x]
        place = same.index(mark.group.label) - (len(same) - 1) / 2
        apart.append(replace(mark, x=mark.x * 1.05**place))
    return apart


def _connecting_line(subset: Sequence[RunGroup], marks: Sequence[_Mark]) -> list[Point]:
    """The line through configurations of one budget and kind; empty if two are equally deep."""
    labels = {group.label for group in subset}
    members = [mark for mark in marks if mark.group.label in labels]
    depths = {mark.group.model.num_layers for mark in members}
    is_line = len(depths) == len(members) > 1
    return [(mark.x, mark.interval.mean) for mark in members] if is_line else []


def _draw_marks(
    axes: "Axes",
    analysis: Analysis,
    marks: Sequence[_Mark],
    segments: Sequence[tuple[Point, Point]],
    front: Sequence[Point] = (),
) -> None:
    """Draw means with intervals, single seeds, the Pareto front, and labels beside `segments`."""
    bars = []
    for mark in marks:
        losses = list(mark.group.losses(loss_metric(analysis)).values())
        mean, half_width = mark.interval.mean, mark.interval.half_width or 0.0
        axes.plot([mark.x] * len(losses), losses, "_", color=mark.colour, markersize=9, alpha=0.7)
        axes.errorbar(
            mark.x, mean, yerr=half_width or None, color=mark.colour, markersize=7, capsize=3,
            linewidth=1.4, markeredgewidth=1.6, zorder=3, **mark_style(mark.group, mark.colour),
        )  # fmt: skip
        bars.append(((mark.x, mean - half_width), (mark.x, mean + half_width)))
    axes.margins(x=0.1, y=0.1)
    axes.set_ylabel(f"final validation loss ({loss_unit(analysis)})")
    bars += [*segments, *(_draw_front(axes, front) if front else ())]
    reference_lines(axes, analysis)
    points = [(mark.x, mark.interval.mean) for mark in marks]
    label_points(axes, points, [mark.group.label for mark in marks], bars)


def _draw_front(axes: "Axes", front: Sequence[Point]) -> Iterable[tuple[Point, Point]]:
    """Draw the front as steps from the top to the right edge of the axes; return its segments."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    corners = [(front[0][0], top)]
    for cost, loss in front:
        corners += [(cost, corners[-1][1]), (cost, loss)]
    corners.append((right, front[-1][1]))
    axes.plot(*zip(*corners, strict=True), color=MUTED, linewidth=1.2, linestyle=":", zorder=1)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    return itertools.pairwise(corners)
