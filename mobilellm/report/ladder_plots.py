"""The plots of a ladder: loss against size, best depth against size, decisions by smaller runs."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mobilellm.report.analysis import Analysis
from mobilellm.report.drawing import INK, MUTED, PAPER, palette
from mobilellm.report.ladder import Ladder
from mobilellm.report.ladder_decisions import SizeDecision, SizeDecisions
from mobilellm.units import count_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "os^Dvp*hX"


def loss_against_size(analysis: Analysis) -> "Figure | None":
    """Draw the final loss of each depth against body parameters, with the law; None without it."""
    from matplotlib.figure import Figure

    ladder = analysis.ladder
    if ladder is None:
        return None
    by_depth = _by_depth(ladder)
    figure = Figure(figsize=(8.2, 4.8), layout="constrained")
    axes = figure.subplots()
    _size_axis(axes, [rung.body for rung in ladder.rungs])
    for index, (depth, points) in enumerate(by_depth.items()):
        colour = palette(len(by_depth))[index]
        body, loss, half = np.array(points).T
        axes.errorbar(
            body, loss, yerr=np.where(half > 0, half, np.nan), color=colour, capsize=3, zorder=3,
            marker=MARKERS[index % len(MARKERS)], markersize=6, linewidth=1.1,
            label=f"{depth} layers" if depth > 1 else "1 layer",
        )  # fmt: skip
    _draw_law(axes, ladder)
    axes.set_ylabel("final validation loss (nats per token)")
    axes.legend(fontsize=9)
    return figure


def _by_depth(ladder: Ladder) -> dict[int, list[tuple[float, float, float]]]:
    """Body parameters, mean loss and half of its interval, by depth."""
    found: dict[int, list[tuple[float, float, float]]] = {}
    for rung in ladder.rungs:
        for group in rung.groups:
            interval = group.interval("val_loss")
            if interval is not None:
                point = (rung.body, interval.mean, interval.half_width or 0.0)
                found.setdefault(group.model.num_layers, []).append(point)
    return dict(sorted(found.items()))


def _draw_law(axes: "Axes", ladder: Ladder) -> None:
    """Draw the law at each shape as a dash, and the prediction of the largest size as a star."""
    if ladder.law is None:
        return
    points, bodies = [], []
    for rung in ladder.rungs:
        for group in rung.groups:
            model = group.model
            points.append((model.num_layers, model.hidden_size, group.first.tokens))
            bodies.append(rung.body)
    law = ladder.law.predict(np.array(points, float))
    axes.plot(bodies, law, "_", color=INK, markersize=13, zorder=4, label="law, fitted to all")
    held = ladder.held_out
    if held is None:
        return
    runs = held.runs
    is_full = runs.has_most_tokens
    axes.plot(
        [ladder.rungs[-1].body] * int(is_full.sum()), held.predicted[is_full], "*", color=INK,
        markerfacecolor=PAPER, markersize=10, zorder=5, label="law, fitted to smaller sizes",
    )  # fmt: skip


def best_depth_against_size(analysis: Analysis) -> "Figure | None":
    """Draw the best depth of each size, from the losses and by the law; None for one size."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    ladder = analysis.ladder
    if ladder is None or len(ladder.best_depths) < 2:
        return None
    found = ladder.best_depths
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set_yscale("log", base=2)
    body = [each.body for each in found]
    colours = palette(2)
    by_law = [each.by_law for each in found if each.by_law is not None]
    if by_law:
        low, high = [each.low for each in by_law], [each.high for each in by_law]
        axes.fill_between(body, low, high, color=colours[0], alpha=0.25, linewidth=0)
        axes.plot(body, [each.depth for each in by_law], color=colours[0], label="by the law")
    for each in found:
        axes.plot([each.body] * len(each.depths), each.depths, ".", color=MUTED, markersize=4)
    _draw_measured(axes, ladder, colours[1])
    depths = sorted({depth for each in found for depth in each.depths})
    axes.set_yticks(depths, [f"{depth:g}" for depth in depths])
    axes.yaxis.set_minor_locator(NullLocator())
    _size_axis(axes, body)
    axes.set_ylabel("depth with the lowest loss (layers)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=9)
    return figure


def _draw_measured(axes: "Axes", ladder: Ladder, colour: str) -> None:
    """Draw the vertices with their intervals; of a flat size, only the interval."""
    is_named = False
    for each in ladder.best_depths:
        if each.measured is None:
            continue
        m = each.measured
        x, alpha = each.body * 1.03, 0.45 if each.is_flat else 1.0
        axes.plot([x, x], [m.low, m.high], color=colour, linewidth=1.4, alpha=alpha)
        if each.is_flat:
            continue
        face = PAPER if each.is_at_edge else colour
        label = None if is_named else "from the losses of the size"
        axes.plot(x, m.depth, "o", color=colour, markerfacecolor=face, label=label)
        is_named = True


def decisions_by_size(analysis: Analysis) -> "Figure | None":
    """Draw how often smaller or shorter runs order depths like larger ones; None without them."""
    from matplotlib.figure import Figure

    ladder = analysis.ladder
    found = [] if ladder is None else [each for each in ladder.decisions if len(each.rows) > 1]
    if ladder is None or not found:
        return None
    sizes = [rung.body for rung in ladder.rungs]
    figure = Figure(figsize=(8.2, 3.9 * len(found)), layout="constrained")
    grid = figure.subplots(len(found), 2, squeeze=False)
    for (left, right), decisions in zip(grid, found, strict=True):
        _draw_decisions(left, decisions, sizes, lambda row: row.pairs)
        _draw_decisions(right, decisions, sizes, lambda row: row.rank_correlation)
        left.set_title(f"{count_text(decisions.body)}: pairs of depths in the same order")
        right.set_title(f"{count_text(decisions.body)}: rank correlation")
        left.set_ylim(-0.03, 1.03)
        left.axhline(0.5, color=MUTED, linewidth=1, linestyle=":")
        right.set_ylim(min(-0.03, *(row.rank_correlation - 0.03 for row in decisions.rows)), 1.03)
        left.legend(fontsize=9, loc="lower right")
    return figure


def _draw_decisions(
    axes: "Axes", decisions: SizeDecisions, sizes: Sequence[float],
    value: Callable[[SizeDecision], float],
) -> None:  # fmt: skip
    """One line per size, whose points are its numbers of tokens."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for index, (size, colour) in enumerate(zip(sizes, palette(len(sizes)), strict=True)):
        rows = [row for row in decisions.rows if row.body == size]
        if rows:
            axes.plot(
                [row.share_of_flops for row in rows], [value(row) for row in rows], color=colour,
                marker=MARKERS[index % len(MARKERS)], markersize=6,
                label=f"by {count_text(size)} body parameters",
            )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("training FLOPs, share of the runs decided about")


def _size_axis(axes: "Axes", sizes: Sequence[float]) -> None:
    """A logarithmic axis of body parameters with a tick at each size."""
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    axes.set_xticks(sizes, [count_text(size) for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("body parameters (logarithmic axis)")
