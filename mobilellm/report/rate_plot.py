"""The plot of loss against learning rate, one line per shape."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mobilellm.report.analysis import Analysis
from mobilellm.report.drawing import PAPER, fix_layout, line_styles, palette
from mobilellm.report.rate_curves import RateCurve, by_recipe
from mobilellm.report.reference_lines import loss_unit
from mobilellm.units import rate_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 2
"""Panels side by side; further ones are below them."""
HEADROOM = 0.35
"""The vertical axis ends where losses exceed the range of the best ones by this share of a nat."""


def against_rate(analysis: Analysis) -> "Figure | None":
    """Plot the loss against the learning rate; None if no shape was trained with several rates."""
    from matplotlib.figure import Figure

    recipes = by_recipe(analysis.rate_curves)
    if not recipes:
        return None
    # The colours of the other plots, which the page adapts to its theme.
    labels = [group.label for group in analysis.groups]
    colours = dict(zip(labels, palette(len(labels)), strict=True))
    columns = min(COLUMNS, len(recipes))
    rows = -(-len(recipes) // columns)
    figure = Figure(figsize=(1.4 + 4.1 * columns, 0.4 + 3.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, (recipe, curves) in zip(panels, recipes.items(), strict=False):
        _draw(axes, curves, colours)
        axes.set_title(recipe)
        axes.set_ylabel(f"final validation loss ({loss_unit(analysis)})")
    for axes in panels[len(recipes) :]:
        axes.set_axis_off()
    fix_layout(figure)
    return figure


def _draw(axes: "Axes", curves: Sequence[RateCurve], colours: Mapping[str, str]) -> None:
    from matplotlib.ticker import NullLocator

    firsts = [curve.groups[0] for curve in curves]
    for curve, first, style in zip(curves, firsts, line_styles(firsts), strict=True):
        colour = colours[first.label]
        axes.plot(
            curve.rates, curve.losses, color=colour, linewidth=1.5, marker="o", markersize=3,
            label=curve.label, **style,
        )  # fmt: skip
        axes.plot(
            [curve.best], [curve.losses[curve.place]], marker="*", markersize=13, color=colour,
            markerfacecolor=colour if curve.is_interior else PAPER, linestyle="none", zorder=3,
        )  # fmt: skip
    rates = sorted({rate for curve in curves for rate in curve.rates})
    axes.set_xscale("log", base=2)
    axes.set_xticks(rates, [rate_text(rate) for rate in rates], rotation=45)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("peak learning rate (logarithmic axis)")
    bests = [curve.losses[curve.place] for curve in curves]
    highest = max(loss for curve in curves for loss in curve.losses)
    top = min(highest, max(bests) + max(max(bests) - min(bests), HEADROOM))
    margin = 0.05 * (top - min(bests)) or 0.01
    axes.set_ylim(min(bests) - margin, top + margin)
    axes.legend(fontsize=8, ncols=2)
