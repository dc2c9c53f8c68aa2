"""The plots of the report, with their titles and captions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobilellm.report.analysis import Analysis
from mobilellm.report.decision_plot import decision_accuracy
from mobilellm.report.final_plots import against_cost, against_depth
from mobilellm.report.ladder_plots import (
    best_depth_against_size,
    decisions_by_size,
    loss_against_size,
)
from mobilellm.report.rate_plot import against_rate
from mobilellm.report.training_plots import against_flops, against_time, against_tokens

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Plot:
    """One plot of the page."""

    name: str
    """File name without extension."""
    title: str
    caption: str
    """What the plot shows, and how to read it."""
    draw: Callable[[Analysis], "Figure | None"]
    """Draws the plot; returns None if the runs lack the data for it."""
    needs_latency: bool = False
    """Whether it shows measured latencies, for which it has to wait."""


PLOTS: tuple[Plot, ...] = (
    Plot(
        "ladder_loss_against_size", "Final loss against size",
        "How does each depth gain from size? Each size at its largest number of tokens; means over "
        "seeds with 95 % intervals. Dashes are the law of the loss; stars are what it says of the "
        "largest size if it is fitted without that size.",
        loss_against_size,
    ),
    Plot(
        "ladder_best_depth", "Best depth against size",
        "Does the best depth grow with the size? Circles: the vertex of a parabola through the "
        "losses of one size, with its interval; open, if it is the smallest or largest depth. A "
        "bar without a circle: the losses do not tell a best depth. Line and band: by the law. "
        "Small dots are the depths that were trained.",
        best_depth_against_size,
    ),
    Plot(
        "ladder_decisions", "Decisions by smaller and shorter runs",
        "How far can a small run be trusted to choose the depth of a large one? Complete runs of "
        "one seed, compared with the longest runs of the size in the title; the points of a line "
        "are the token budgets of one size. If the largest size has fewer depths than the next "
        "smaller one, both are shown. By chance, half of the pairs (dotted) are in the same order.",
        decisions_by_size,
    ),
    Plot(
        "loss_against_depth", "Final loss against depth",
        "Does more depth reduce the loss at the same budget? Large markers are means over seeds "
        "with 95 % intervals, dashes are single seeds. Lines connect configurations of equal "
        "budget. Models with shared blocks are open diamonds, and their depth counts every "
        "application of a block. The intervals of two configurations may overlap although the "
        "verdict is clear, since it compares runs of the same seed.",
        against_depth,
    ),
    Plot(
        "loss_against_learning_rate", "Final loss against learning rate",
        "Which learning rate is best for each shape, and is it the same one? A line is one shape; "
        "the star is its best rate, filled if lower and higher rates were tried too. If a "
        "parametrisation lets rates transfer, the stars of its panel lie above each other.",
        against_rate,
    ),
    Plot(
        "loss_against_tokens", "Validation loss against training tokens",
        "Which configuration learns most from the same text? Lines are means over seeds, bands are "
        "the range from the lowest to the highest seed. The right panel enlarges the end of "
        "training: while curves still fall steeply or cross, the ranking is not settled.",
        against_tokens,
    ),
    Plot(
        "decision_accuracy", "Early decisions",
        "How early can the ranking be trusted? Decisions by the runs of one seed after a part of "
        "the tokens, compared with the mean losses at the end; averages over seeds. Even at the "
        "end a single seed is not always right. Only configurations with equal numbers of tokens "
        "count. The learning rate of these runs has not decayed yet, so complete runs of a smaller "
        "budget may rank them somewhat differently.",
        decision_accuracy,
    ),
    Plot(
        "loss_against_flops", "Validation loss against training FLOPs",
        "Which configuration has the lowest loss after the same number of operations? Attention "
        "and the output head are included; shared blocks count once per application. Compare the "
        "curves at one position on the axis.",
        against_flops,
    ),
    Plot(
        "loss_against_time", "Validation loss against wall time",
        "Which configuration has the lowest loss after the same time on this machine? Deep models "
        "run more and smaller operations, so they are usually slower than their FLOPs suggest.",
        against_time,
    ),
    Plot(
        "loss_against_parameters", "Final loss against stored parameters",
        "Which loss can a model of a given size reach? Lower left is better. The grey steps are "
        "the Pareto front of the mean losses: no other configuration is both smaller and better.",
        lambda analysis: against_cost(
            analysis, "stored parameters", lambda group: group.first.parameters["stored"]
        ),
    ),
    Plot(
        "loss_against_latency", "Final loss against decode latency",
        "Is a deep model still better at equal latency? The time per generated token was measured "
        "side by side at batch size 1. Lower left is better; the grey steps are "
        "the Pareto front of the mean losses: no other configuration is both faster and better.",
        lambda analysis: against_cost(
            analysis, "milliseconds per generated token", lambda group: group.latency_ms
        ),
        needs_latency=True,
    ),
    Plot(
        "loss_against_decode_bytes", "Final loss against bytes read per generated token",
        "How fast can a model run on a device? Generating one token reads every weight once per "
        "application, and the keys and values of the context; memory bandwidth divided by these "
        "bytes is an upper bound of tokens per second. Lower left is better.",
        lambda analysis: against_cost(
            analysis,
            "bytes read per generated token",
            lambda group: group.first.number("decode_bytes_per_token"),
        ),
    ),
)  # fmt: skip
"""All plots in the order of the page."""
