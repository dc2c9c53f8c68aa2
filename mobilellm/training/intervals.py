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
    """Steps between two writes of metrics, which also follow the first and the last step."""
    validation_steps: int | None = None
    """Steps between two validations; the last step is always followed by one. None: only that."""
    validate_at_start: bool = True
    """Whether to validate before the first step too."""

    def __post_init__(self) -> None:
        """Check the intervals."""
        check_fields(self, log_steps=Range(at_least=1), validation_steps=Range(at_least=1))
