"""The plot of early decisions."""

from typing import TYPE_CHECKING

from mobilellm.report.analysis import Analysis
from mobilellm.report.drawing import fix_layout, palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def decision_accuracy(analysis: Analysis) -> "Figure | None":
    """Plot how often early losses decide like the final ones; None with too few runs."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    if analysis.decisions is None or len(analysis.decisions.by_share) < 2:
        return None
    found = analysis.decisions.by_share
    shares = [decision.share for decision in found]
    lines = {
        "pairs in the final order": [decision.pairs for decision in found],
        "final winner is the best": [decision.winner for decision in found],
        "rank correlation": [decision.rank_correlation for decision in found],
    }
    figure = Figure(figsize=(6.4, 3.9), layout="constrained")
    axes = figure.subplots()
    for (name, values), colour, marker in zip(
        lines.items(), palette(len(lines)), "os^", strict=True
    ):
        axes.plot(shares, values, color=colour, marker=marker, markersize=5, label=name)
    axes.set_xscale("log")
    axes.set_xticks(shares, [f"{100 * share:g} %" for share in shares])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("part of the training tokens (logarithmic axis)")
    axes.set_ylim(min(0.0, *lines["rank correlation"]) - 0.03, 1.03)
    axes.set_ylabel("agreement with the end of training")
    axes.legend(loc="lower right", fontsize=9)
    fix_layout(figure)
    return figure
