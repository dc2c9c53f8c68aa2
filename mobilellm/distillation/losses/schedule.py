"""Weights and temperatures that change during a run."""

from dataclasses import dataclass

from mobilellm.ranges import TEMPERATURE, Range, check_fields, check_value

WEIGHT = Range(at_least=0, cap=1e6)


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """A value that changes linearly from `start` to `end` between two shares of the budget.

    It is constant before and after.

    Raises:
        ValueError: values are not finite, or the shares do not satisfy 0 <= begin < until <= 1.
    """

    start: float
    """Value before `begin`."""
    end: float
    """Value after `until`."""
    begin: float = 0.0
    """Used share of the training budget at which the change begins."""
    until: float = 1.0
    """Used share of the training budget at which the change ends."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_fields(self)
        if not 0 <= self.begin < self.until <= 1:
            raise ValueError(
                f"begin={self.begin} and until={self.until} must be shares of the budget with "
                "0 <= begin < until <= 1"
            )

    def at(self, progress: float) -> float:
        """The value when the share `progress` of the budget is used."""
        share = (progress - self.begin) / (self.until - self.begin)
        return self.start + (self.end - self.start) * min(max(share, 0.0), 1.0)


Scheduled = float | Ramp


def value_at(value: Scheduled, progress: float) -> float:
    """The value of a number or of a `Ramp` when the share `progress` of the budget is used."""
    return value.at(progress) if isinstance(value, Ramp) else float(value)


def end_values(value: Scheduled) -> tuple[float, ...]:
    """The values at both ends of the run."""
    return (value.start, value.end) if isinstance(value, Ramp) else (value,)


def check_scheduled(name: str, value: Scheduled, *, positive: bool = False) -> None:
    """Check the range of a weight, or of a temperature if `positive` is true.

    Raises:
        ValueError: the value is out of range at some step.
    """
    for end in end_values(value):
        check_value(name, end, float, TEMPERATURE if positive else WEIGHT)
