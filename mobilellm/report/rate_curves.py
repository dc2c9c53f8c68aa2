"""Loss against learning rate: the best rate of each shape, and whether it is the same for all."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mobilellm.report.labels import make_labels
from mobilellm.report.run_groups import RunGroup, group_key
from mobilellm.report.run_settings import parametrization_text
from mobilellm.units import join_names, plural, rate_text

FEWEST_RATES = 3
"""With fewer rates, no optimum can lie between others."""
STANDARD = "standard"


@dataclass(frozen=True, kw_only=True)
class RateCurve:
    """The final losses of configurations that differ only in the learning rate."""

    label: str
    """Of the shape, without the rate."""
    recipe: str
    """Parametrisation and optimizer, e.g. `completep, adamw`."""
    groups: tuple[RunGroup, ...]
    """One per rate, in ascending order."""
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    """Means over seeds, in the unit of the comparison."""

    @property
    def place(self) -> int:
        """Index of the best rate."""
        return min(range(len(self.rates)), key=lambda index: self.losses[index])

    @property
    def best(self) -> float:
        """The rate with the lowest loss."""
        return self.rates[self.place]

    @property
    def is_interior(self) -> bool:
        """Whether both a lower and a higher rate than the best one were tried."""
        return 0 < self.place < len(self.rates) - 1

    @property
    def estimate(self) -> float | None:
        """The rate at the minimum of a parabola through the best rate and its neighbours.

        The parabola is in the logarithm of the rate. None if the best rate is not interior.
        """
        if not self.is_interior:
            return None
        near = slice(self.place - 1, self.place + 2)
        (x0, x1, x2), (y0, y1, y2) = map(math.log, self.rates[near]), self.losses[near]
        left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
        curvature = (right - left) / (x2 - x0)
        return math.exp((x0 + x1) / 2 - left / (2 * curvature)) if curvature > 0 else self.best

    @property
    def step(self) -> float:
        """The smallest factor between neighbouring rates."""
        pairs = zip(self.rates, self.rates[1:], strict=False)
        return min(higher / lower for lower, higher in pairs)


def rate_curves(groups: Sequence[RunGroup], metric: str | None) -> tuple[RateCurve, ...]:
    """Return a curve for each shape that was trained with at least three learning rates.

    Args:
        groups: all configurations, from wide to deep.
        metric: of the comparison; None: there are no curves.
    """
    by_shape: dict[str, list[RunGroup]] = defaultdict(list)
    for group in groups if metric else ():
        if group.first.number("learning_rate") and group.interval(metric or ""):
            by_shape[group_key(group.first, without=("learning_rate",))].append(group)
    found = []
    for members in by_shape.values():
        by_rate = {float(group.first.number("learning_rate") or 0): group for group in members}
        if len(by_rate) >= FEWEST_RATES:
            found.append(dict(sorted(by_rate.items())))
    recipes = [_recipe(next(iter(curve.values()))) for curve in found]
    labels = ["" for _ in found]
    for recipe in dict.fromkeys(recipes):
        places = [place for place, other in enumerate(recipes) if other == recipe]
        firsts = [next(iter(found[place].values())).first for place in places]
        for place, label in zip(places, make_labels(firsts, with_rates=False), strict=True):
            labels[place] = label
    return tuple(
        RateCurve(
            label=label,
            recipe=recipe,
            groups=tuple(curve.values()),
            rates=tuple(curve),
            losses=tuple(_loss(group, metric or "") for group in curve.values()),
        )
        for label, recipe, curve in zip(labels, recipes, found, strict=True)
    )


def by_recipe(curves: Sequence[RateCurve]) -> dict[str, list[RateCurve]]:
    """Return the curves of each recipe, in order."""
    found: dict[str, list[RateCurve]] = defaultdict(list)
    for curve in curves:
        found[curve.recipe].append(curve)
    return dict(found)


def rate_sentences(curves: Sequence[RateCurve]) -> tuple[str, ...]:
    """Return a sentence for each recipe: how far the best rates of its shapes lie apart."""
    return tuple(_sentence(recipe, own) for recipe, own in by_recipe(curves).items())


def is_about_rates(groups: Sequence[RunGroup], curves: Sequence[RateCurve]) -> bool:
    """Whether all configurations are points of curves, of two shapes or more."""
    return len(curves) > 1 and sum(len(curve.groups) for curve in curves) == len(groups)


def with_rate_sentences(
    findings: Sequence[str], groups: Sequence[RunGroup], curves: Sequence[RateCurve]
) -> tuple[str, ...]:
    """Add those of `rate_sentences`, as the main result if the comparison is about rates."""
    rates = rate_sentences(curves)
    return (*rates, *findings) if is_about_rates(groups, curves) else (*findings, *rates)


def _sentence(recipe: str, curves: Sequence[RateCurve]) -> str:
    low, high = (end(curve.best for curve in curves) for end in (min, max))
    edges = [curve.label for curve in curves if not curve.is_interior]
    interior = (
        f"the best rate is the lowest or highest that was tried for {join_names(edges)}"
        if edges
        else "lower and higher rates were tried for each"
    )
    if len(curves) == 1:
        return f"Learning rate ({recipe}): {rate_text(low)} is best for {curves[0].label}; " + (
            "it is the lowest or highest rate tried." if edges else "it lies between others."
        )
    step = min(curve.step for curve in curves)
    steps = round(math.log(high / low) / math.log(step))
    many = plural(len(curves), "shape")
    found = (
        f"{rate_text(low)} is best for all {many}"
        if steps == 0
        else f"the best rates of {many} lie between {rate_text(low)} and {rate_text(high)}, "
        f"{plural(steps, 'step')} (a factor of {high / low:.3g}) apart"
    )
    return f"Learning rate ({recipe}): {found}; {interior}."


def _recipe(group: RunGroup) -> str:
    """Parametrisation and optimizer of a configuration."""
    name = parametrization_text(group.first) or STANDARD
    return f"{name}, {(group.first.optimizer or '').partition(' ')[0]}".rstrip(", ")


def _loss(group: RunGroup, metric: str) -> float:
    interval = group.interval(metric)
    return math.nan if interval is None else interval.mean
