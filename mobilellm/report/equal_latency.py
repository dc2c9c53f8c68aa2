"""The second verdict of deep against wide: which shape is better at equal latency?

A deep model needs more time per token than a wide one of as many parameters. If several sizes of
each depth were trained, the losses are interpolated over the logarithm of the latency, and depths
are compared at common latencies. If not, a pair is only decided if the shape with the lower loss is
not slower either.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mobilellm.report.comparability import comparable_subsets
from mobilellm.report.depth_ranges import group_by_kind
from mobilellm.report.run_groups import RunGroup
from mobilellm.report.statistics import (
    BETTER,
    FAMILY_LEVEL,
    Interval,
    Pair,
    judge,
    mean_interval,
)
from mobilellm.units import plural

NOT_SLOWER = 0.1
"""A shape is not slower than another if its time per token is at most this much longer, with 97.5 %
confidence."""
MAX_LATENCIES = 3
"""The most latencies at which depths are compared."""

ALSO_BETTER = "better also at equal latency"
SLOWER = "better, but slower"
TIMES_UNCLEAR = "better, times not distinguishable"
NO_DIFFERENCE = "no verdict on the loss"


@dataclass(frozen=True)
class Ratio:
    """A ratio of two latencies, from rounds that alternated, and its 95 % interval."""

    mean: float
    low: float
    high: float

    def inverse(self) -> "Ratio":
        """The second latency divided by the first."""
        return Ratio(1 / self.mean, 1 / self.high, 1 / self.low if self.low else math.inf)

    def __str__(self) -> str:
        """`1.90 (1.84–2.06)`."""
        return f"{_number(self.mean)} ({_number(self.low)}–{_number(self.high)})"

    @property
    def is_equal(self) -> bool:
        """Whether neither is slower than the other; see `NOT_SLOWER`."""
        return self.low >= 1 / (1 + NOT_SLOWER) and self.high <= 1 + NOT_SLOWER


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


@dataclass(frozen=True)
class LatencyPair:
    """Two configurations of different depth; the first has the lower loss."""

    pair: Pair
    """The comparison of their losses."""
    ratio: Ratio
    """Time per token of the first, divided by that of the second."""
    slower_ms: float
    """Milliseconds per token of the slower one."""

    @property
    def verdict(self) -> str:
        """One of `ALSO_BETTER`, `SLOWER`, `TIMES_UNCLEAR` and `NO_DIFFERENCE`."""
        if self.pair.verdict != BETTER:
            return NO_DIFFERENCE
        if self.ratio.high <= 1 + NOT_SLOWER:
            return ALSO_BETTER
        return SLOWER if self.ratio.low > 1 else TIMES_UNCLEAR


@dataclass(frozen=True)
class DepthCurve:
    """The loss of one depth as a function of the latency, through shapes of several sizes."""

    label: str
    """E.g. `8 layers`."""
    points: tuple[tuple[float, Mapping[int, float]], ...]
    """Milliseconds per token, ascending, with the losses by seed."""

    def covers(self, ms: float) -> bool:
        """Whether the latency lies between those of two sizes."""
        return self.points[0][0] <= ms <= self.points[-1][0]

    def at(self, ms: float) -> dict[int, float]:
        """The losses at a latency by seed, linear in its logarithm between the nearest sizes."""
        for (left, low), (right, high) in itertools.pairwise(self.points):
            if left <= ms <= right:
                share = math.log(ms / left) / math.log(right / left)
                seeds = sorted(low.keys() & high.keys())
                return {seed: (1 - share) * low[seed] + share * high[seed] for seed in seeds}
        return {}


@dataclass(frozen=True)
class LatencyLevel:
    """Depths compared at one latency."""

    ms: float
    losses: Mapping[str, Interval]
    """Interpolated loss by the label of the depth, with its interval over seeds."""
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class EqualLatency:
    """All verdicts at equal latency."""

    pairs: tuple[LatencyPair, ...] = ()
    levels: tuple[LatencyLevel, ...] = field(default=())

    def pair(self, first: str, second: str) -> LatencyPair | None:
        """The comparison of two configurations, given by label in any order; None if unknown."""
        for found in self.pairs:
            if {found.pair.first, found.pair.second} == {first, second}:
                return found
        return None


def equal_latency(
    groups: Sequence[RunGroup], pairs: Sequence[Pair], metric: str | None
) -> EqualLatency:
    """Compare configurations of different depths at equal latency.

    Args:
        groups: all configurations, with their latencies.
        pairs: the comparisons of their losses.
        metric: the loss that is compared; None: nothing is comparable.
    """
    if metric is None:
        return EqualLatency()
    by_label = {group.label: group for group in groups}
    found = []
    for pair in pairs:
        first, second = by_label[pair.first], by_label[pair.second]
        differ = first.model.num_layers != second.model.num_layers
        if not (differ and first.latency and second.latency and pair.difference):
            continue
        better = pair if pair.difference.mean <= 0 else pair.swapped()
        ends = by_label[better.first], by_label[better.second]
        slower = max(group.latency_ms or 0 for group in ends)
        found.append(LatencyPair(better, latency_ratio(*(e.latency for e in ends)), slower))
    levels = [
        level
        for subset in comparable_subsets(groups)
        for kind in group_by_kind([group for group in subset if not group.is_shared])
        for level in compare_depths(depth_curves(kind, metric))
    ]
    return EqualLatency(tuple(found), tuple(levels))


def latency_ratio(first: Sequence[float], second: Sequence[float]) -> Ratio:
    """The ratio of two latencies: mean and Student's t interval of its logarithm over rounds.

    A single round says nothing about the spread, so that its interval has no limits.

    Args:
        first: milliseconds of each round.
        second: the same rounds of the other model.
    """
    logs = [math.log(a / b) for a, b in zip(first, second, strict=True)]
    found = mean_interval(logs)
    half = math.inf if found.half_width is None else found.half_width
    return Ratio(math.exp(found.mean), math.exp(found.mean - half), math.exp(found.mean + half))


def depth_curves(groups: Sequence[RunGroup], metric: str) -> tuple[DepthCurve, ...]:
    """The depths that were trained in at least two sizes, shallow ones first.

    Of several configurations of one shape, such as different learning rates, the one with the
    lowest mean loss counts.
    """
    best: dict[str, RunGroup] = {}
    for group in groups:
        interval = group.interval(metric)
        if not group.latency or interval is None:
            continue
        key = str(group.model)
        other = best[key].interval(metric) if key in best else None
        if other is None or interval.mean < other.mean:
            best[key] = group
    by_depth: dict[int, list[RunGroup]] = defaultdict(list)
    for group in best.values():
        by_depth[group.model.num_layers].append(group)
    curves = []
    for depth, members in sorted(by_depth.items()):
        points: dict[float, Mapping[int, float]] = {}
        for group in sorted(members, key=lambda group: group.latency_ms or 0):
            points[group.latency_ms or 0] = group.losses(metric)
        if len(points) > 1:
            curves.append(DepthCurve(plural(depth, "layer"), tuple(points.items())))
    return tuple(curves)


def compare_depths(curves: Sequence[DepthCurve]) -> tuple[LatencyLevel, ...]:
    """Compare depths at up to `MAX_LATENCIES` latencies that several of them cover.

    The chance of a wrong verdict at any of them is at most `FAMILY_LEVEL`.
    """
    candidates = sorted(ms for curve in curves for ms, _ in curve.points)
    covered = [ms for ms in candidates if sum(curve.covers(ms) for curve in curves) > 1]
    chosen = covered
    if len(covered) > MAX_LATENCIES:
        last = len(covered) - 1
        places = [round(last * i / (MAX_LATENCIES - 1)) for i in range(MAX_LATENCIES)]
        chosen = [covered[place] for place in places]
    levels = []
    for ms in dict.fromkeys(chosen):
        losses = {curve.label: curve.at(ms) for curve in curves if curve.covers(ms)}
        losses = {label: by_seed for label, by_seed in losses.items() if by_seed}
        if len(losses) < 2:
            continue
        judged = judge(losses, level_at=lambda _: FAMILY_LEVEL / len(set(chosen)))
        intervals = {label: mean_interval(list(found.values())) for label, found in losses.items()}
        levels.append(LatencyLevel(ms, intervals, judged.pairs))
    return tuple(levels)


def best_of(level: LatencyLevel) -> tuple[str, dict[str, list[str]]]:
    """The depth with the lowest loss at a latency, and the other depths by verdict against it."""
    best = min(level.losses, key=lambda label: level.losses[label].mean)
    verdicts: dict[str, list[str]] = defaultdict(list)
    for pair in level.pairs:
        if best in (pair.first, pair.second):
            seen = pair if pair.first == best else pair.swapped()
            verdicts[seen.verdict].append(seen.second)
    return best, dict(verdicts)
