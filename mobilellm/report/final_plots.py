"""Final loss against depth and against what a model costs."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mobilellm.report.budgets import budget_groups
from mobilellm.report.drawing import MUTED, label_points, mark_style, palette
from mobilellm.report.reference_lines import loss_metric, loss_unit, reference_lines
from mobilellm.report.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mobilellm.report.comparison import Comparison


def against_depth(comparison: "Comparison") -> "Figure | None":
    """Final loss against layers run; shapes of equal budget are joined."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    depths = sorted({shape.model.num_layers for shape in comparison.shapes})
    if len(depths) < 2:
        return None
    figure = Figure(figsize=(8.2, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.xaxis.set_minor_locator(NullLocator())
    for group in budget_groups(comparison.shapes):
        plain = [shape for shape in group if not shape.is_shared]
        points = [
            (shape.model.num_layers, found.mean)
            for shape in plain
            if (found := shape.interval(loss_metric(comparison)))
        ]
        if points:
            axes.plot(*zip(*points, strict=True), color=MUTED, linewidth=1, zorder=1)
    axes.margins(x=0.09, y=0.1)
    _draw_finals(axes, comparison, lambda run: run.model.num_layers)
    axes.set_xlabel("depth (layers run per token, logarithmic axis)")
    axes.set_ylabel(f"final validation loss ({loss_unit(comparison)})")
    return figure


def against_cost(
    comparison: "Comparison", label: str, cost: Callable[[Run], float | None]
) -> "Figure | None":
    """Final loss against a cost, with the Pareto front."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, NullFormatter

    costs = {shape.label: cost(shape.first) for shape in comparison.shapes}
    known = {name: value for name, value in costs.items() if value}
    means = {
        shape.label: found.mean
        for shape in comparison.shapes
        if (found := shape.interval(loss_metric(comparison))) and shape.label in known
    }
    if len(means) < 2:
        return None
    figure = Figure(figsize=(8.2, 4.4), layout="constrained")
    axes = figure.subplots()
    is_wide = max(known.values()) > 3 * min(known.values())
    if is_wide:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    front = pareto_front([(known[name], means[name]) for name in means])
    axes.margins(x=0.09, y=0.1)
    _draw_finals(axes, comparison, cost, front)
    axes.set_xlabel(f"{label} (logarithmic axis)" if is_wide else label)
    axes.set_ylabel(f"final validation loss ({loss_unit(comparison)})")
    return figure


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points than which no other is at most as large in both coordinates, in order of the first."""
    front: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def _draw_finals(
    axes: "Axes",
    comparison: "Comparison",
    position: Callable[[Run], float | None],
    front: Sequence[tuple[float, float]] = (),
) -> None:
    """Means with intervals, single seeds, and the names beside them."""
    metric = loss_metric(comparison)
    points, names = [], []
    for shape, colour in zip(comparison.shapes, palette(len(comparison.shapes)), strict=True):
        x, found = position(shape.first), shape.interval(metric)
        if x is None or found is None:
            continue
        losses = list(shape.losses(metric).values())
        axes.plot([x] * len(losses), losses, ".", color=colour, alpha=0.45, markersize=4)
        axes.errorbar(
            x, found.mean, yerr=found.half_width, color=colour, markersize=7, capsize=3,
            linewidth=1.4, markeredgewidth=1.6, zorder=3, **mark_style(shape, colour),
        )  # fmt: skip
        points.append((x, found.mean))
        names.append(shape.label)
    if front:
        # From the top of the axes down to each point and on to the right end.
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        x = [front[0][0], *(cost for cost, _ in front), right]
        y = [top, *(loss for _, loss in front), front[-1][1]]
        axes.step(x, y, where="post", color=MUTED, linewidth=1.2, linestyle=":", zorder=1)
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
    reference_lines(axes, comparison)
    label_points(axes, points, names)
