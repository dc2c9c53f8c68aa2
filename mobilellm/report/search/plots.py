"""The plots of a search."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobilellm.report.drawing import INK, MUTED
from mobilellm.report.search.results import SearchResults, best_by_tokens
from mobilellm.search.space.constraints import COSTS
from mobilellm.search.study.records import PRUNED
from mobilellm.units import axis_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACCENT, OTHER = "#31688e", "#b3392c"
COLOURS = (ACCENT, OTHER)
SIZE = (8.0, 4.6)


@dataclass(frozen=True)
class SearchPlot:
    """One plot of the page."""

    name: str
    title: str
    caption: str
    draw: "Callable[[SearchResults], Figure | None]"


def against_cost(results: SearchResults) -> "Figure | None":
    """First objective against the second, or against the parameters of the body."""
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    if not results.finished:
        return None
    first, *others = results.objectives
    second = others[0] if others else None
    figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
    for one in results.trials:
        if one.trial.values is None:
            continue
        cost = one.trial.values[1] if second else one.record.costs["body"]
        is_pruned = one.trial.status == PRUNED
        axes.plot(
            [cost], [one.trial.values[0]], "x" if is_pruned else "o",
            color=MUTED if is_pruned else ACCENT, markersize=6,
        )  # fmt: skip
    kept = results.front if second else results.ranked[:1]
    points = [
        (values[1] if second else one.record.costs["body"], values[0], one.record.number)
        for one in kept
        if (values := one.trial.values)
    ]  # fmt: skip
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "-o", color=OTHER,
              markersize=8, markerfacecolor="none", linewidth=1.2)  # fmt: skip
    for x, y, number in points:
        axes.annotate(str(number), (x, y), (6, 6), textcoords="offset points", color=INK)
    name = second.name if second else "body"
    axes.set_xlabel(COSTS[name].unit if name in COSTS else name)
    axes.set_ylabel(first.name)
    axes.xaxis.set_major_formatter(FuncFormatter(axis_text))
    pyplot.close(figure)
    return figure


def progress(results: SearchResults) -> "Figure | None":
    """The best value so far against the tokens of all trials."""
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    if not results.finished:
        return None
    figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
    first = results.objectives[0]
    lines = [(results.sampler, best_by_tokens(results.trials, first)), *results.others]
    for place, (name, points) in enumerate(lines):
        style = "-" if place == 0 else ("--", ":", "-.")[(place - 1) % 3]
        axes.step([x for x, _ in points], [y for _, y in points], style, where="post",
                  color=ACCENT if place == 0 else OTHER, label=name)  # fmt: skip
    if len(lines) > 1:
        axes.legend()
    axes.set_xlabel("tokens of all trials")
    axes.set_ylabel(f"{first.superlative} {first.name} so far")
    axes.xaxis.set_major_formatter(FuncFormatter(axis_text))
    pyplot.close(figure)
    return figure


def curves(results: SearchResults) -> "Figure | None":
    """The losses of all trials while they trained."""
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    drawn = [one for one in results.trials if len(one.steps) > 1]
    if not drawn:
        return None
    figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
    best = results.ranked[0].record.number if results.finished else None
    for one in drawn:
        is_pruned, is_best = one.trial.status == PRUNED, one.record.number == best
        colour = OTHER if is_best else MUTED if is_pruned else ACCENT
        axes.plot([x for x, _ in one.steps], [y for _, y in one.steps], color=colour,
                  linewidth=2.2 if is_best else 1.0, zorder=3 if is_best else 2)  # fmt: skip
        if is_pruned:
            axes.plot(*one.steps[-1], "x", color=MUTED, markersize=6)
    axes.set_xlabel("training tokens")
    axes.set_ylabel("validation loss")
    axes.xaxis.set_major_formatter(FuncFormatter(axis_text))
    pyplot.close(figure)
    return figure


PLOTS = (
    SearchPlot(
        "search_front", "Results of the trials",
        "Dots are finished trials, crosses are trials that were ended early, with their last loss. "
        "The red line is the front: no other finished trial is as good in every objective and "
        "better in one. Numbers are those of the table.",
        against_cost,
    ),
    SearchPlot(
        "search_progress", "Progress of the search",
        "The best value of a finished trial, by the tokens that all trials have used together. "
        "Dashed lines are other studies (search.compare_with).",
        progress,
    ),
    SearchPlot(
        "search_curves", "Trials while they trained",
        "Grey curves were ended early, at the cross; the red one is the best trial.",
        curves,
    ),
)  # fmt: skip
