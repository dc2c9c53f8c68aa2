"""Weights and temperatures that change while a run goes on."""

from dataclasses import dataclass

from mobilellm.ranges import TEMPERATURE, Range, check_fields, check_value

WEIGHT = Range(at_least=0, cap=1e6)


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """From `start` to `end` in a straight line, between two shares of the budget; constant outside.

    Raises:
        ValueError: values that are not finite, shares that are not 0 <= begin < until <= 1.
    """

    start: float
    """Value before and at `begin`."""
    end: float
    """Value at and after `until`."""
    begin: float = 0.0
    """Share of the budget used up when the change begins."""
    until: float = 1.0
    """Share of the budget used up when it is over."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_fields(self)
        if not 0 <= self.begin < self.until <= 1:
            raise ValueError(
                f"begin={self.begin} and until={self.until} are shares of the budget: "
                "0 <= begin < until <= 1"
            )

    def at(self, progress: float) -> float:
        """Value once the share `progress` of the budget is used up."""
        share = (progress - self.begin) / (self.until - self.begin)
        return self.start + (self.end - self.start) * min(max(share, 0.0), 1.0)


Scheduled = float | Ramp


def value_at(value: Scheduled, progress: float) -> float:
    """A number as it is, a `Ramp` at `progress`."""
    return value.at(progress) if isinstance(value, Ramp) else float(value)


def extremes(value: Scheduled) -> tuple[float, ...]:
    """The least and the greatest value that it ever has."""
    return (value.start, value.end) if isinstance(value, Ramp) else (value,)


def check_scheduled(name: str, value: Scheduled, *, positive: bool = False) -> None:
    """Check a weight or, with `positive`, a temperature.

    Raises:
        ValueError: a value below 0, or with `positive` one that is not above it.
    """
    for end in extremes(value):
        check_value(name, end, float, TEMPERATURE if positive else WEIGHT)
