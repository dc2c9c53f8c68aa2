"""The values that one parameter of a search space can take."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Value = bool | int | float | str | None
MOST_STEPS = 1_000_000


@dataclass(frozen=True)
class Choices:
    """A list of values without an order, such as the names of sharing schemes.

    Raises:
        ValueError: fewer than two values, two equal ones, or one that is not plain.
    """

    options: tuple[Value, ...]

    def __post_init__(self) -> None:
        """Check the values."""
        for option in self.options:
            if not isinstance(option, bool | int | float | str | None):
                raise ValueError(
                    f"choices has the value {option!r}; give numbers, text, true, false or null"
                )
        if len(set(map(_key, self.options))) < len(self.options):
            raise ValueError(f"choices={list(self.options)} has the same value twice; remove one")
        if len(self.options) < 2:
            raise ValueError(
                f"choices={list(self.options)} needs at least two values; a setting with one value "
                "is not searched: give it on the command line"
            )

    @property
    def values(self) -> tuple[Value, ...]:
        """All values."""
        return self.options

    def draw(self, generator: random.Random) -> Value:
        """One of the values, each with the same probability."""
        return generator.choice(self.options)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in a YAML file."""
        return {"choices": list(self.options)}


@dataclass(frozen=True)
class Span:
    """Numbers from `low` to `high`, both included.

    Whole numbers have steps of `step` (default 1); numbers with a fraction are continuous unless a
    step is given. With `log`, small numbers are drawn as often as large ones.

    Raises:
        ValueError: the limits are not numbers in ascending order, the step does not divide the
            range, or it is given with `log`.
    """

    low: int | float
    high: int | float
    step: int | float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        """Check the limits and the step."""
        for name, value in (("low", self.low), ("high", self.high)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(
                    f"{name}={value!r} must be a number; give choices=[…] for values that are not"
                )
            if not math.isfinite(value):
                raise ValueError(f"{name}={value!r} must be a finite number")
        if not self.low < self.high:
            raise ValueError(
                f"low={self.low} must be below high={self.high}; both are values of the range"
            )
        if not isinstance(self.log, bool):
            raise ValueError(f"log={self.log!r} must be true or false")
        if self.log and self.low <= 0:
            raise ValueError(f"low={self.low} must be above 0 with log=true")
        self._check_step()

    def _check_step(self) -> None:
        step = 1 if self.step is None and self.is_whole and not self.log else self.step
        if step is None:
            return
        if isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step < math.inf:
            raise ValueError(f"step={step!r} must be a number above 0")
        if self.log:
            raise ValueError(f"step={step} has no effect with log=true; leave out one of the two")
        if self.is_whole and not isinstance(step, int):
            raise ValueError(f"step={step} must be a whole number, as low and high are")
        steps = (self.high - self.low) / step
        if steps > MOST_STEPS:
            raise ValueError(
                f"low={self.low}, high={self.high} and step={step} make more than {MOST_STEPS:,} "
                "values; use a larger step"
            )
        if step > self.high - self.low:
            raise ValueError(
                f"step={step} is more than high - low = {self.high - self.low}; use a smaller one"
            )
        if abs(steps - round(steps)) > 1e-9:
            reached = self.low + math.floor(steps) * step
            raise ValueError(
                f"step={step} does not lead from low={self.low} to high={self.high}; use "
                f"high={reached:g}, or another step"
            )

    @property
    def is_whole(self) -> bool:
        """Whether all values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def values(self) -> Sequence[Value] | None:
        """All values, in ascending order; None if they are continuous."""
        if self.is_whole:
            step = 1 if self.step is None else int(self.step)
            return range(int(self.low), int(self.high) + 1, step)
        if self.step is None:
            return None
        steps = round((self.high - self.low) / self.step)
        return [self.low + index * self.step for index in range(steps + 1)]

    def draw(self, generator: random.Random) -> Value:
        """A random value: uniform, or uniform in the logarithm."""
        if self.log:
            drawn = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
            drawn = min(max(drawn, self.low), self.high)
            return round(drawn) if self.is_whole else drawn
        values = self.values
        return (
            generator.uniform(self.low, self.high) if values is None else generator.choice(values)
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in a YAML file."""
        given: dict[str, Any] = {"low": self.low, "high": self.high}
        given |= {} if self.step is None else {"step": self.step}
        return given | ({"log": True} if self.log else {})


Domain = Choices | Span


def _key(value: Value) -> tuple[bool, Value]:
    """A key that tells True from 1."""
    return (isinstance(value, bool), value)
