"""The loss a plot shows, and the losses of word counts beside it."""

from typing import TYPE_CHECKING

from mobilellm.report.drawing import INK, MUTED
from mobilellm.report.findings import UNIT
from mobilellm.report.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mobilellm.report.comparison import Comparison


def reference_lines(axes: "Axes", comparison: "Comparison") -> None:
    """Unigram and bigram loss of the validation text, where they fall inside the axes."""
    bottom, top = axes.get_ylim()
    for name in ("unigram", "bigram"):
        values = {
            value * loss_scale(run, comparison.metric)
            for shape in comparison.shapes
            for run in shape.runs
            if (value := run.number(f"{name}_loss")) is not None
        }
        if len({round(value, 4) for value in values}) == 1 and bottom < (y := values.pop()) < top:
            axes.axhline(y, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=0)
            axes.annotate(
                f"{name} model", (1, y), (-2, 3), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="right", fontsize=8.5, color=INK, style="italic",
            )  # fmt: skip


def loss_scale(run: Run, metric: str | None) -> float:
    """From nats per token to the unit of the comparison; a constant of text and tokenizer."""
    if metric == "val_bits_per_byte" and run.val_bits_per_byte is not None:
        return run.val_bits_per_byte / run.val_loss
    return 1.0


def loss_metric(comparison: "Comparison") -> str:
    """The metric that is drawn; nats per token where none is compared."""
    return comparison.metric or "val_loss"


def loss_unit(comparison: "Comparison") -> str:
    """Its unit."""
    return UNIT[loss_metric(comparison)]
