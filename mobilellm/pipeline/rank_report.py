"""The report that the process of a rank leaves for the process that started it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """How a rank ended; the rank writes it to a file."""

    time: float
    """Seconds since the epoch."""
    rank: int
    error: BaseException | None
    """What ended the rank before the run's end; None: all ranks have finished their work."""
    traceback: str = ""
