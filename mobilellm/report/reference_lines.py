"""The unit of the loss in plots, and horizontal lines at the unigram and bigram losses."""

from typing import TYPE_CHECKING

from mobilellm.report.analysis import Analysis
from mobilellm.report.drawing import INK, MUTED
from mobilellm.report.findings import UNIT
from mobilellm.report.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def reference_lines(axes: "Axes", analysis: Analysis) -> None:
    """Draw a line at the unigram and at the bigram loss, if it lies inside the axes."""
    bottom, top = axes.get_ylim()
    for name in ("unigram", "bigram"):
        values = {
            value * loss_scale(run, analysis.metric)
            for group in analysis.groups
            for run in group.runs
            if (value := run.number(f"{name}_loss")) is not None
        }
        if len({round(value, 4) for value in values}) == 1 and bottom < (y := values.pop()) < top:
            axes.axhline(y, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=0)
            axes.annotate(
                f"{name} model", (1, y), (-2, 3), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="right", fontsize=8.5, color=INK, style="italic",
            )  # fmt: skip


def loss_scale(run: Run, metric: str | None) -> float:
    """Return the factor from nats per token to the unit of the comparison, for one run.

    In bits per byte, it depends on the validation text and the tokenizer.
    """
    if metric == "val_bits_per_byte" and run.val_bits_per_byte is not None:
        return run.val_bits_per_byte / run.val_loss
    return 1.0


def loss_metric(analysis: Analysis) -> str:
    """Return the metric of the plots: nats per token if no metric is comparable."""
    return analysis.metric or "val_loss"


def loss_unit(analysis: Analysis) -> str:
    """Return the unit of the loss in the plots."""
    return UNIT[loss_metric(analysis)]
