"""Whether each shape had a fair learning rate: tried, and not at the edge of those tried.

The best rate falls with the width, so that one rate for all widths favours some of them: the
confound of the published depth-against-width grid.
"""

import math
from collections import defaultdict
from collections.abc import Sequence

from mobilellm.report.runs import Run
from mobilellm.report.shapes import Shape
from mobilellm.units import listed, rate_text


def rates_tried(run: Run) -> dict[float, float]:
    """Learning rate to the probe's validation loss (NaN where it is not known), in order."""
    entries = run.fact("learning_rates_tried") or []
    tried = {
        float(entry["learning_rate"]): _loss(entry.get("val_loss"))
        for entry in entries
        if isinstance(entry, dict) and entry.get("learning_rate") is not None
    }
    return dict(sorted(tried.items()))


def learning_rate_cautions(shapes: Sequence[Shape]) -> tuple[str, ...]:
    """Sentences about shapes whose rate was not tried, or is the lowest or highest tried."""
    by_model: dict[str, set[float]] = defaultdict(set)
    for shape in shapes:
        by_model[str(shape.model)] |= {
            rate for run in shape.runs if (rate := run.number("learning_rate")) is not None
        }
    untried, edges = [], []
    for shape in shapes:
        chosen = shape.first.number("learning_rate")
        tried = sorted(set(rates_tried(shape.first)) | by_model[str(shape.model)])
        if chosen is None:
            continue
        if len(tried) < 2:
            untried.append(shape)
        elif not rates_tried(shape.first) and not _is_best_of_its_model(shape, shapes):
            continue
        elif math.isclose(chosen, tried[0]) or math.isclose(chosen, tried[-1]):
            edges.append(f"{shape.label} ({rate_text(chosen)} of {_range(tried)})")
    found = []
    if untried and len(shapes) > 1:
        found.append(_untried_sentence(untried, shapes))
    if edges:
        found.append(
            f"the learning rate is at the edge of those tried: {listed(edges)}; a better one may "
            "lie beyond, widen learning_rate_probe_factors"
        )
    return tuple(found)


def _untried_sentence(untried: Sequence[Shape], shapes: Sequence[Shape]) -> str:
    who = "any shape" if len(untried) == len(shapes) else listed([s.label for s in untried])
    rates = {rate_text(shape.first.number("learning_rate")) for shape in untried}
    widths = {shape.model.hidden_size for shape in untried}
    text = f"no other learning rate was tried for {who}"
    if len(rates) == 1 and len(widths) > 1:
        text += f": one rate, {rates.pop()}, for all widths favours some of them"
    return f"{text}; train with learning_rate_probe=true"


def _is_best_of_its_model(shape: Shape, shapes: Sequence[Shape]) -> bool:
    """Whether a shape has the lowest loss of those that differ from it in the rate alone."""
    losses = {
        other.label: found.mean
        for other in shapes
        if other.model == shape.model and (found := other.interval("val_loss"))
    }
    return min(losses, key=lambda label: losses[label]) == shape.label


def _range(rates: Sequence[float]) -> str:
    return f"{rate_text(rates[0])}–{rate_text(rates[-1])}"


def _loss(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
