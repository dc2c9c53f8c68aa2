"""A verdict for every pair of configurations, right together with a stated probability.

The chance of even one wrong verdict in the whole comparison is at most `FAMILY_LEVEL`. A
configuration that spreads more than the others, a seed that moves all of them, and missing runs do
not change that (`block_design`, `simultaneous`).
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mobilellm.ranges import Range, check_value
from mobilellm.report.statistics.block_design import Sweep, sweep_of
from mobilellm.report.statistics.intervals import Interval, mean_interval
from mobilellm.report.statistics.noise import Noise, noise_of
from mobilellm.report.statistics.simultaneous import largest_statistic

FAMILY_LEVEL = 0.05
"""The chance of any wrong verdict in a comparison."""
MINIMUM_SEEDS = 3
"""Seeds of a comparison without which there is no verdict."""
MINIMUM_COMMON_SEEDS = 2
"""Seeds that two configurations must have in common for a verdict on them."""

BETTER = "better"
WORSE = "worse"
EQUIVALENT = "equivalent"
NOT_DISTINGUISHABLE = "not distinguishable"
TOO_FEW_SEEDS = "too few seeds"
NOT_COMPARABLE = "not comparable"

Losses = Mapping[str, Mapping[int, float]]
"""Final loss by label and seed; lower is better."""


@dataclass(frozen=True)
class Pair:
    """The first of two configurations compared with the second."""

    first: str
    second: str
    seeds: tuple[int, ...]
    """Common seeds."""
    difference: Interval | None
    """Loss of the first minus that of the second; None if they have no common seeds, or if the
    losses are not comparable. With a verdict, the intervals of all pairs contain the true
    differences at the same time in 95 % of all comparisons; without, it is the paired t interval of
    this pair."""
    p_value: float | None
    """Two-sided, for this pair alone: Student's t with the degrees of freedom of its own
    differences and as many of the pooled noise. None without a verdict."""
    adjusted_p_value: float | None
    """Chance that any pair of configurations that do not differ seems to differ as much."""
    verdict: str
    """`better`, `worse`, `equivalent`, `not distinguishable`, `too few seeds` or `not comparable`;
    better = lower loss."""
    reason: str = ""
    """Why the two are not comparable."""
    margin: float | None = None
    """The difference that does not matter, if one was given."""

    def swapped(self) -> "Pair":
        """Return the same comparison with the second configuration first."""
        difference = self.difference
        if difference is not None:
            difference = Interval(-difference.mean, difference.half_width, difference.count)
        verdict = {BETTER: WORSE, WORSE: BETTER}.get(self.verdict, self.verdict)
        return replace(
            self, first=self.second, second=self.first, difference=difference, verdict=verdict
        )


@dataclass(frozen=True)
class Judgement:
    """The pairs, and the noise of the runs on which the verdicts rest."""

    pairs: tuple[Pair, ...]
    noise: tuple[Noise, ...]
    """One for each set of comparable configurations with a verdict, the largest first."""


def check_margin(margin: float | None) -> None:
    """Check a difference that does not matter.

    Raises:
        ValueError: it is not a finite number above 0.
    """
    remedy = "it is a difference in the unit of the loss"
    check_value("margin", margin, float | None, Range(above=0, remedy=remedy))


def judge(
    losses: Losses,
    incomparability_reason: Callable[[str, str], str | None] = lambda first, second: None,
    *,
    against: str | None = None,
    margin: float | None = None,
    level_at: Callable[[int], float] = lambda number_of_seeds: FAMILY_LEVEL,
) -> Judgement:
    """Return a verdict for every pair of configurations, or for every pair with a baseline.

    Args:
        losses: of all configurations.
        incomparability_reason: returns why two configurations are not comparable, or None.
        against: label of the baseline, chosen before the losses were known; then only the pairs
            with it count.
        margin: a difference that does not matter. If the whole interval of a difference lies within
            it, the verdict is `equivalent`.
        level_at: the chance of a wrong verdict that is allowed at a number of seeds.
    """
    names = list(itertools.combinations(losses, 2))
    if against is not None:
        names = [(name, against) for name in losses if name != against]
    incomparability_reason = functools.cache(incomparability_reason)
    reasons = {pair: incomparability_reason(*pair) for pair in names}
    untested = {pair: _untested(pair, losses, reasons[pair]) for pair in names}
    comparable = [pair for pair in names if reasons[pair] is None]
    sweeps = [
        sweep
        for labels, pairs in _families(losses, comparable, incomparability_reason)
        if (sweep := sweep_of({name: losses[name] for name in labels}, pairs, MINIMUM_COMMON_SEEDS))
        and sweep.design.num_seeds >= MINIMUM_SEEDS
    ]
    tested = {
        (pair.first, pair.second): pair
        for sweep in sweeps
        for pair in _tested(sweep, level_at(sweep.design.num_seeds), len(sweeps), margin)
    }
    return Judgement(
        tuple(tested.get(pair, untested[pair]) for pair in names),
        tuple(map(noise_of, sorted(sweeps, key=lambda sweep: -sweep.design.num_shapes))),
    )


def paired_differences(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    """Return the differences, first minus second, for the common seeds in ascending order."""
    return {seed: first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())}


def _families(
    losses: Losses,
    pairs: Sequence[tuple[str, str]],
    incomparability_reason: Callable[[str, str], str | None],
) -> list[tuple[list[str], list[tuple[str, str]]]]:
    """Return sets of comparable labels with their pairs; then each pair that is in no such set."""
    left = dict.fromkeys(pairs)
    families: list[tuple[list[str], list[tuple[str, str]]]] = []
    subsets: list[list[str]] = []
    for label in losses:
        for subset in subsets:
            if all(incomparability_reason(other, label) is None for other in subset):
                subset.append(label)
                break
        else:
            subsets.append([label])
    for subset in subsets:
        members = set(subset)
        inside = [pair for pair in left if members.issuperset(pair)]
        if inside:
            families.append((subset, inside))
        for pair in inside:
            del left[pair]
    return [*families, *(([*pair], [pair]) for pair in left)]


def _untested(names: tuple[str, str], losses: Losses, reason: str | None) -> Pair:
    """Return the pair without a verdict."""
    differences = paired_differences(*(losses[name] for name in names))
    seeds, values = tuple(differences), list(differences.values())
    if reason is not None:
        return Pair(*names, seeds, None, None, None, NOT_COMPARABLE, reason)
    interval = mean_interval(values) if values else None
    return Pair(*names, seeds, interval, None, None, TOO_FEW_SEEDS)


def _tested(
    sweep: Sweep, level: float, number_of_families: int, margin: float | None
) -> list[Pair]:
    """Return the pairs of one set of comparable configurations, with their verdicts."""
    from scipy.special import stdtr

    design, losses = sweep.design, sweep.losses[None]
    null = largest_statistic(design)
    statistics, differences = design.statistics(losses)[0], design.differences(losses)[0]
    own = design.own_degrees
    degrees = own if design.num_shapes == 2 else 2 * own
    alone = 2 * stdtr(degrees, -statistics * design.scales)
    adjusted = np.minimum(1, number_of_families * null.p_values(statistics))
    half_widths = design.scales * null.limit(level / number_of_families) * design.errors(losses)[0]
    found = []
    for place, (first, second) in enumerate(design.pairs):
        seeds = tuple(
            seed
            for seed, runs in zip(sweep.seeds, design.runs, strict=True)
            if runs[first] and runs[second]
        )
        difference = Interval(float(differences[place]), float(half_widths[place]), len(seeds))
        p_value, corrected = float(alone[place]), float(max(alone[place], adjusted[place]))
        is_distinct = statistics[place] > 0 and corrected <= level
        verdict = _verdict(difference, is_distinct, margin)
        labels = sweep.labels[first], sweep.labels[second]
        found.append(Pair(*labels, seeds, difference, p_value, corrected, verdict, margin=margin))
    return found


def _verdict(difference: Interval, is_distinct: bool, margin: float | None) -> str:
    if is_distinct:
        return BETTER if difference.mean < 0 else WORSE
    reach = abs(difference.mean) + (difference.half_width or 0.0)
    if margin is not None and difference.half_width is not None and reach <= margin:
        return EQUIVALENT
    return NOT_DISTINGUISHABLE
