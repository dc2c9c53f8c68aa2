"""The figures of a comparison and what to read off each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobilellm.report.final_plots import against_cost, against_depth
from mobilellm.report.training_plots import against_flops, against_time, against_tokens

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mobilellm.report.comparison import Comparison


@dataclass(frozen=True)
class Plot:
    """One figure of the page."""

    name: str
    """File name without ending."""
    title: str
    caption: str
    """What it shows and what to read off."""
    draw: Callable[["Comparison"], "Figure | None"]
    """None where the runs do not have what it needs."""


PLOTS: tuple[Plot, ...] = (
    Plot(
        "loss_against_depth", "Final loss against depth",
        "Does more depth pay at the same budget? Large marks are means over seeds with their "
        "95 % interval, strokes the single seeds. Shapes of equal budget are joined; open "
        "diamonds share blocks and stand at the number of layers they run. Intervals of two "
        "shapes may overlap although the verdict is clear: it compares them seed by seed.",
        against_depth,
    ),
    Plot(
        "loss_against_tokens", "Validation loss against training tokens",
        "Which shape learns most from the same text? Lines are means over seeds, bands reach "
        "from the lowest to the highest seed. The right panel enlarges the end of training: "
        "lines that still fall steeply or cross have not settled.",
        against_tokens,
    ),
    Plot(
        "loss_against_flops", "Validation loss against training FLOPs",
        "Which shape makes most of the same arithmetic? Attention and the output head count; "
        "shared blocks count each time they run. Compare lines at one place on the axis.",
        against_flops,
    ),
    Plot(
        "loss_against_time", "Validation loss against wall time",
        "Which shape is best after the same time on this machine? Deep models run more and "
        "smaller operations, so they are usually slower than their FLOPs say.",
        against_time,
    ),
    Plot(
        "loss_against_parameters", "Final loss against stored parameters",
        "What does a model of a given size reach? Lower left is better. The grey steps are "
        "the Pareto front by mean loss: nothing else is both smaller and better.",
        lambda comparison: against_cost(
            comparison, "stored parameters", lambda run: run.parameters["stored"]
        ),
    ),
    Plot(
        "loss_against_decode_bytes", "Final loss against bytes read per generated token",
        "What does a model cost on a device? Generating one token reads every weight once for "
        "each time it runs, and the keys and values of the context; memory bandwidth divided "
        "by these bytes bounds tokens per second. Lower left is better.",
        lambda comparison: against_cost(
            comparison,
            "bytes read per generated token",
            lambda run: run.number("decode_bytes_per_token"),
        ),
    ),
)  # fmt: skip
"""Every figure in the order of the page."""
