"""The report that a rank writes for the process that started it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """The outcome of a rank, which the rank writes to a file."""

    time: float
    """Seconds since the epoch."""
    rank: int
    error: BaseException | None
    """The error that ended the rank; None if all ranks have finished their work."""
    traceback: str = ""
