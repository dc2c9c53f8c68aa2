"""Which points of a space are legal shapes, and which of these meet the constraints."""

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mobilellm.models import ModelConfig
from mobilellm.search.space.constraints import COSTS, Constraints, NotCovered
from mobilellm.search.space.search_space import Point, SearchSpace, setting_values

ILLEGAL = "illegal shape"
NOT_COVERED = "outside of the device profile"
MOST_POINTS = 2_000
"""A space with at most this number of points is counted in full; others by random draws."""
DRAWS = 1_000


@dataclass(frozen=True)
class Candidate:
    """A point that meets all constraints."""

    point: Point
    """The searched values."""
    settings: Mapping[str, Any]
    """Values of all settings of the space that apply, the largest that fits included."""
    model: ModelConfig
    """The model that the run saves."""
    costs: Mapping[str, float]
    """The limited costs by name."""


@dataclass(frozen=True)
class Rejection:
    """A point that is not legal, or does not meet the constraints."""

    point: Point
    reasons: tuple[str, ...]
    """Names of the costs that are too large, or `ILLEGAL` or `NOT_COVERED`."""
    message: str = ""
    """The error of an illegal shape."""
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Feasibility:
    """Checks points of a space, without training.

    Args:
        space: the searched settings.
        constraints: the limits.
        build: the model that a run with the settings of a point saves; raises ValueError or
            TypeError if they are not legal.
        num_blocks: of the configuration, if the depth is not searched.
    """

    space: SearchSpace
    constraints: Constraints
    build: Callable[[Mapping[str, Any]], ModelConfig]
    num_blocks: int | None = None

    def __post_init__(self) -> None:
        """Check that the largest size that fits is limited.

        Raises:
            ValueError: there is no limit.
        """
        largest = self.space.largest
        if largest is not None and not self.constraints.limits:
            raise ValueError(
                f"{largest.name}: largest_that_fits needs a limit; give one, such as "
                "search.constraints.max_bytes=1e6, or leave it out"
            )

    def check(self, point: Point) -> Candidate | Rejection:
        """Whether a point is legal and meets the constraints; it is never changed."""
        largest, settings = self.space.largest, setting_values(point)
        if largest is None or not largest.applies(point):
            return self._check(point, settings)
        # Some sizes are illegal, for example widths that the heads do not divide. Of the others,
        # larger ones cost more.
        sizes = [{**settings, largest.name: value} for value in largest.domain.values or ()]
        legal = [one for one in sizes if self._is_possible(one)] or sizes[:1]
        place = bisect_right(
            legal, 0, key=lambda one: isinstance(self._check(point, one), Rejection)
        )
        return self._check(point, legal[max(0, place - 1)])

    def _is_possible(self, settings: Mapping[str, Any]) -> bool:
        """Whether the settings are legal and, with a device profile, within its range."""
        try:
            self.constraints.check_covers(self.build(settings))
        except (ValueError, TypeError):
            return False
        return True

    def _check(self, point: Point, settings: Mapping[str, Any]) -> Candidate | Rejection:
        try:
            model = self.build(settings)
        except (ValueError, TypeError) as error:
            return Rejection(point, (ILLEGAL,), " ".join(str(error).split()))
        try:
            self.constraints.check_covers(model)
        except NotCovered as error:
            return Rejection(point, (NOT_COVERED,), str(error))
        limited = self.constraints.costs(model, self.constraints.limits)
        excess = tuple(name for name, limit in self.constraints.limits.items()
                       if limited[name] > limit)  # fmt: skip
        if excess:
            return Rejection(point, excess, costs=limited)
        return Candidate(point, settings, model, limited)

    def draw(self, generator: random.Random) -> Candidate | Rejection:
        """Check a random point."""
        return self.check(self.space.draw(generator, self.num_blocks))

    def candidates(self) -> Iterator[Candidate]:
        """All feasible points of a finite space, in a fixed order."""
        for point in self.space.points(self.num_blocks):
            found = self.check(point)
            if isinstance(found, Candidate):
                yield found

    def survey(self, draws: int = DRAWS, seed: int = 0) -> "Survey":
        """Count feasible points and the reasons of the others.

        Args:
            draws: number of random points, if the space has too many to count.
            seed: of the draws.
        """
        points = self._all_points()
        if points is not None:
            return Survey.of([self.check(point) for point in points], self.constraints, True)
        generator = random.Random(seed)
        drawn = [self.draw(generator) for _ in range(draws)]
        return Survey.of(drawn, self.constraints, False)

    def _all_points(self) -> list[Point] | None:
        """All points; None if there are too many."""
        if not self.space.is_finite:
            return None
        found: list[Point] = []
        for point in self.space.points(self.num_blocks):
            found.append(point)
            if len(found) > MOST_POINTS:
                return None
        return found


@dataclass(frozen=True)
class Survey:
    """Which share of a space is feasible, and what limits it."""

    points: int
    is_complete: bool
    """Whether these are all points of the space, rather than random ones."""
    feasible: int
    violated: Mapping[str, int]
    """By reason, the points that it excludes."""
    alone: Mapping[str, int]
    """By reason, the points that it excludes and no other does."""
    lowest: Mapping[str, float]
    """By limited cost, the lowest value of a legal point."""
    messages: Mapping[str, int]
    """Errors of illegal shapes, without their numbers, with how often each occurred."""
    limits: Mapping[str, float]

    @classmethod
    def of(
        cls, checked: list[Candidate | Rejection], constraints: Constraints, is_complete: bool
    ) -> "Survey":
        """Count checked points."""
        rejected = [one for one in checked if isinstance(one, Rejection)]
        costs = [one.costs for one in checked if one.costs]
        return cls(
            points=len(checked),
            is_complete=is_complete,
            feasible=len(checked) - len(rejected),
            violated=Counter(reason for one in rejected for reason in one.reasons),
            alone=Counter(one.reasons[0] for one in rejected if len(one.reasons) == 1),
            lowest={name: min(found[name] for found in costs) for name in constraints.limits}
            if costs
            else {},
            messages=Counter(one.message for one in rejected if one.message),
            limits=constraints.limits,
        )

    @property
    def counted(self) -> str:
        """`1,200 points` or `5,000 random points`."""
        return f"{self.points:,} {'' if self.is_complete else 'random '}points"

    def check(self) -> None:
        """Refuse a space without a feasible point.

        Raises:
            ValueError: the message says which constraints bind, and the lowest costs.
        """
        if self.feasible:
            return
        start = f"none of {self.counted} of search_space meets the constraints"
        illegal = self.violated.get(ILLEGAL, 0)
        if illegal == self.points:
            message = max(self.messages, key=lambda text: self.messages[text])
            raise ValueError(f"{start}: all are illegal shapes, for example: {message}")
        parts = [
            f"max_{name}={limit:g} excludes {self.violated.get(name, 0):,}, and the lowest of a "
            f"legal point is {COSTS[name].text(self.lowest[name])}"
            for name, limit in self.limits.items()
            if self.violated.get(name) and name in self.lowest
        ]
        parts += [
            f"{reason}: {self.violated[reason]:,}"
            for reason in (ILLEGAL, NOT_COVERED)
            if self.violated.get(reason)
        ]
        remedy = "raise a limit in search.constraints, or add smaller values to the space"
        raise ValueError(f"{start}: {'; '.join(parts)}; {remedy}")


def settings_key(settings: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """A key that is equal for equal settings."""
    return tuple(sorted((name, repr(value)) for name, value in settings.items()))
