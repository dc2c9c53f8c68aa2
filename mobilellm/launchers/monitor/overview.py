"""The display of a running sweep: a table in a terminal, otherwise single lines."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mobilellm.hydra_app.override_text import by_key, short_keys, shown_value
from mobilellm.launchers.monitor.progress import Progress, read_progress
from mobilellm.units import elapsed_text

REFRESH_SECONDS = 1.0
PLAIN_LINE_SECONDS = 60.0


@dataclass
class Counts:
    """Number of trials of a sweep in each state."""

    total: int
    finished: int = 0
    skipped: int = 0
    failed: int = 0
    stopped: int = 0
    pruned: int = 0
    """Trials of a search that ended early because of their losses."""
    note: str = ""
    """Added to the line, such as the best result so far."""

    @property
    def done(self) -> int:
        """Trials that have ended."""
        return self.finished + self.skipped + self.failed + self.stopped + self.pruned

    def line(self) -> str:
        """`4 of 15 finished (1 already), 1 failed`."""
        before = f" ({self.skipped} already)" if self.skipped else ""
        parts = [f"{self.finished + self.skipped} of {self.total} finished{before}"]
        parts += [f"{self.pruned} pruned"] if self.pruned else []
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self.stopped} stopped"] if self.stopped else []
        parts += [self.note] if self.note else []
        return ", ".join(parts)


@dataclass(frozen=True)
class RunningTrial:
    """A running trial."""

    name: str
    folder: Path | None
    seconds: float
    """Seconds since its start."""
    swept: tuple[str, ...] = ()
    """The overrides in which it differs from the other trials, each shown in a column."""


@dataclass
class Overview:
    """Shows the running trials, as a context manager.

    Args:
        counts: updated by the caller.
        console: where to write; default: stderr.
    """

    counts: Counts
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))

    def __post_init__(self) -> None:
        """Nothing is drawn yet."""
        self._live: Live | None = None
        self._refreshed = time.monotonic()

    def __enter__(self) -> Self:
        """Start the live table if stderr is a terminal."""
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the table; printed lines stay."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def print_line(self, message: str) -> None:
        """Print a line that stays above the table."""
        self.console.print(Text(message), soft_wrap=True)

    def refresh(self, running: Sequence[RunningTrial]) -> None:
        """Show the running trials if the last refresh is long enough ago."""
        interval = REFRESH_SECONDS if self._live is not None else PLAIN_LINE_SECONDS
        now = time.monotonic()
        if now - self._refreshed < interval:
            return
        self._refreshed = now
        if self._live is not None:
            self._live.update(self._table(running), refresh=True)
        else:
            self.print_line(self.counts.line())
            for trial in running:
                self.print_line(f"  {trial.name}: {progress_text(read_progress(trial.folder))}")

    def _table(self, running: Sequence[RunningTrial]) -> Group:
        table = Table(box=None, pad_edge=False)
        values = [by_key(trial.swept) for trial in running]
        headings = short_keys(dict.fromkeys(key for run in values for key in run)) or {"": "trial"}
        for heading in headings.values():
            table.add_column(heading, overflow="fold")
        for column in ("done", "step", "train", "val", "time"):
            table.add_column(column, justify="right", no_wrap=True)
        for trial, run in zip(running, values, strict=True):
            progress = read_progress(trial.folder)
            table.add_row(
                *(shown_value(run.get(key, "")) if key else trial.name for key in headings),
                _share(progress),
                _text(progress.step),
                _text(progress.train_loss),
                _text(progress.val_loss),
                elapsed_text(trial.seconds),
            )
        return Group(table, Text(self.counts.line(), style="bold"))


def progress_text(progress: Progress) -> str:
    """`step 120, 48 % done, train loss 5.210, val loss 5.310`."""
    parts = [
        f"step {progress.step}" if progress.step is not None else "starting",
        f"{_share(progress)} done" if progress.share is not None else "",
        f"train loss {progress.train_loss:.3f}" if progress.train_loss is not None else "",
        f"val loss {progress.val_loss:.3f}" if progress.val_loss is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def _share(progress: Progress) -> str:
    return "" if progress.share is None else f"{progress.share:.0%}".replace("%", " %")


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
