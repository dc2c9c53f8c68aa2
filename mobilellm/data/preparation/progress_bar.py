"""A progress bar for processing text, on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager


class ProgressBar:
    """Counts bytes of text; does nothing if it is disabled.

    Args:
        enabled: whether to show anything.
    """

    def __init__(self, enabled: bool) -> None:
        """Store the setting; nothing is shown before the first phase."""
        self._enabled = enabled
        self._progress = None
        self._task = None

    @contextmanager
    def phase(
        self, description: str, total_bytes: int | None = None, *, counts_bytes: bool = True
    ) -> Iterator[None]:
        """Show a bar while the block runs; it stays on the screen afterwards.

        Args:
            description: name of the phase.
            total_bytes: number of bytes of text; None: not known.
            counts_bytes: whether `advance` is called; otherwise only the time is shown.
        """
        if not self._enabled:
            yield
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TransferSpeedColumn,
        )

        bytes_done = (DownloadColumn(), TransferSpeedColumn()) if counts_bytes else ()
        columns = (
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=30),
            *bytes_done,
            TimeElapsedColumn(),
        )
        # If stderr is not a terminal, only the end of each phase is written.
        with Progress(*columns, console=Console(stderr=True)) as self._progress:
            self._task = self._progress.add_task(description, total=total_bytes)
            yield
            done = self._progress.tasks[0].completed or 1
            self._progress.update(self._task, total=done, completed=done)
        self._progress = self._task = None

    def advance(self, num_bytes: int) -> None:
        """Add a number of processed bytes."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, num_bytes)

    def show_message(self, message: str) -> None:
        """Write a message to stderr, unless the bar is disabled."""
        if self._enabled:
            from rich.console import Console

            Console(stderr=True).print(message, highlight=False)
