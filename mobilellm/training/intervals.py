"""The intervals at which a run writes metrics and validates."""

from dataclasses import dataclass

from mobilellm.ranges import Range, check_fields


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Intervals in optimizer steps.

    Raises:
        ValueError: an interval is below 1.
    """

    log_steps: int = 10
    """Steps between two writes of metrics; they are also written after the first and last step."""
    validation_steps: int | None = None
    """Steps between two validations; None: validate only after the last step, as is always done."""
    validate_at_start: bool = True
    """Whether to validate before the first step too."""

    def __post_init__(self) -> None:
        """Check the intervals."""
        check_fields(self, log_steps=Range(at_least=1), validation_steps=Range(at_least=1))
