"""How often a run writes metrics and validates."""

from dataclasses import dataclass


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
        for name in ("log_steps", "validation_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
