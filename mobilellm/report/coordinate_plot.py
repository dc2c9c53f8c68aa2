"""The plot of a coordinate check: sizes of activations against width and depth, step by step."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mobilellm.report.drawing import MUTED, palette, plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
"""`parametrization`, `axis` (`width` or `depth`), `place` (its value), `step`, and `sizes` by
quantity."""


def coordinate_figure(rows: Sequence[Row]) -> "Figure":
    """One row of panels per quantity, one column per axis and parametrisation.

    Lines are steps, from the first (bright) to the last (dark). The panels of a row have the same
    vertical axis, so that a line that is flat in one column can be compared with others.
    """
    from matplotlib.figure import Figure

    quantities = list(rows[0]["sizes"])
    columns = list(dict.fromkeys((row["axis"], row["parametrization"]) for row in rows))
    columns.sort(key=lambda column: column[0], reverse=True)
    steps = sorted({row["step"] for row in rows})
    with plot_style():
        figure = Figure(
            figsize=(1.2 + 2.3 * len(columns), 0.8 + 2.0 * len(quantities)), layout="constrained"
        )
        panels = figure.subplots(len(quantities), len(columns), sharey="row", squeeze=False)
        for number, (axis, name) in enumerate(columns):
            line = [row for row in rows if (row["axis"], row["parametrization"]) == (axis, name)]
            for quantity, axes in zip(quantities, panels[:, number], strict=True):
                _draw(axes, line, quantity, steps)
            panels[0, number].set_title(f"{name}, by {axis}")
            panels[-1, number].set_xlabel(axis)
        for quantity, axes in zip(quantities, panels[:, 0], strict=True):
            axes.set_ylabel(quantity.replace("_", " "))
        panels[0, -1].legend(
            title="step", loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8,
            title_fontsize=9,
        )  # fmt: skip
        figure.draw_without_rendering()
    return figure


def _draw(axes: "Axes", line: Sequence[Row], quantity: str, steps: Sequence[int]) -> None:
    from matplotlib.ticker import NullFormatter, NullLocator, StrMethodFormatter

    places = sorted({row["place"] for row in line})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(places, [str(place) for place in places])
    axes.xaxis.set_minor_locator(NullLocator())
    # Matplotlib's own labels are formulas, which the style does not typeset.
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    for step, colour in zip(steps, palette(len(steps)), strict=True):
        at_step = sorted((r for r in line if r["step"] == step), key=lambda row: row["place"])
        axes.plot(
            [row["place"] for row in at_step], [row["sizes"][quantity] for row in at_step],
            color=colour, linewidth=1.4, marker="o", markersize=3, label=str(step),
        )  # fmt: skip
    axes.tick_params(colors=MUTED, labelsize=8)
