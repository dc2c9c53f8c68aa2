"""How often a run writes metrics and validates."""

from dataclasses import dataclass

from mobilellm.ranges import Range, check_fields


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Intervals in optimizer steps.

    Raises:
        ValueError: an interval below 1.
    """

    log_steps: int = 10
    """Metrics are written after every so many steps, and after the first and the last."""
    validation_steps: int | None = None
    """Validation after every so many steps, and after the last; None: only after the last."""
    validate_at_start: bool = True
    """Also before the first step."""

    def __post_init__(self) -> None:
        """Check the intervals."""
        check_fields(self, log_steps=Range(at_least=1), validation_steps=Range(at_least=1))
