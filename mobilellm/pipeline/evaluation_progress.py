"""A progress bar for the evaluation of one model, on stderr."""

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class EvaluationProgress:
    """Shows the task in progress, and how many of its requests are answered.

    If stderr is not a terminal, one line per task is shown when it ends.
    """

    def __init__(self, model: str) -> None:
        """Remember the name of the model; nothing is shown before `begin`."""
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(),
            TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._model = model[-24:]
        self._task: Any = None

    def __enter__(self) -> "EvaluationProgress":
        """Start the display."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """End the display."""
        if kind is None:
            self._finish()
        self._progress.stop()

    def begin(self, name: str, total: int | None) -> None:
        """Start the next task.

        Args:
            name: of the task or file.
            total: number of requests; None: unknown.
        """
        self._finish()
        self._task = self._progress.add_task(f"{self._model} {name}", total=total)

    def advance(self, count: int) -> None:
        """Add a number of answered requests."""
        if self._task is not None:
            self._progress.advance(self._task, count)

    def _finish(self) -> None:
        """Show the task as complete: its number of requests may have been an estimate."""
        if self._task is not None:
            done = self._progress.tasks[self._task].completed or 1
            self._progress.update(self._task, total=done, completed=done)
