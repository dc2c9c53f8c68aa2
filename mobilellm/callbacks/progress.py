"""A progress bar on a terminal; otherwise a log line at regular intervals."""

import logging
import time
from typing import Any

from lightning.pytorch import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Column

from mobilellm.ranges import Range, checked
from mobilellm.units import clock_text, si_text

logger = logging.getLogger(__name__)


class ProgressCallback(Callback):
    """Shows the step, tokens, loss, tokens per second and the remaining time.

    The rate is the logged one if a `ThroughputCallback` measures it, else the mean over all steps
    since the start, without validation.

    Args:
        refresh_seconds: minimum time between two updates of the bar.
        line_seconds: minimum time between two lines if stderr is not a terminal.
    """

    watches_only = True

    @checked(refresh_seconds=Range(at_least=0), line_seconds=Range(at_least=0))
    def __init__(self, *, refresh_seconds: float = 0.2, line_seconds: float = 30.0) -> None:
        """Keep the settings; nothing is shown before training starts."""
        self.refresh_seconds = refresh_seconds
        self.line_seconds = line_seconds
        self._bar: Progress | None = None
        self._shown_at = 0.0
        self._start: tuple[float, float, int] = (0.0, 0.0, 0)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Show the bar."""
        self._start = (time.monotonic(), _share_done(pl_module), pl_module.tokens)
        self._shown_at = self._start[0]
        console = Console(stderr=True)
        if not trainer.is_global_zero or not console.is_terminal:
            return
        columns = (
            BarColumn(bar_width=12, table_column=Column(min_width=12)),
            TaskProgressColumn(table_column=Column(min_width=4, no_wrap=True)),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        )
        self._bar = Progress(*columns, console=console, auto_refresh=False, transient=True)
        self._bar.add_task("", total=1.0)
        self._bar.start()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Update the bar or write a line, if the last one is old enough."""
        now = time.monotonic()
        wait = self.line_seconds if self._bar is None else self.refresh_seconds
        if now - self._shown_at < wait or not trainer.is_global_zero:
            return
        self._shown_at = now
        text = self._describe(pl_module, now)
        if self._bar is None:
            logger.info(text)
        else:
            self._bar.update(
                self._bar.task_ids[0], completed=_share_done(pl_module), description=text
            )
            self._bar.refresh()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Remove the bar and log the final state."""
        self._close()
        if trainer.is_global_zero:
            logger.info(self._describe(pl_module, time.monotonic()))

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Stop the bar, which restores the terminal."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _describe(self, module: Any, now: float) -> str:
        started, share_before, tokens_before = self._start
        seconds = max(now - started, 1e-9)
        share, total = _share_done(module), module.budget.total_steps
        parts = [f"step {module.global_step:,}" + ("" if total is None else f" of {total:,}")]
        for name, metric in (("loss", "train/loss"), ("validation", "val/loss")):
            if metric in module.latest_metrics:
                parts.append(f"{name} {module.latest_metrics[metric]:.3f}")
        if share_before < share < 1.0:
            left = seconds * (1.0 - share) / (share - share_before)
            parts.append(f"{clock_text(left)} left")
        rate = module.latest_metrics.get("tokens_per_second")
        if rate is None:
            trained = max(seconds - module.validation_seconds, 1e-9)
            rate = (module.tokens - tokens_before) / trained
        parts.append(f"{si_text(rate)} tokens/s")
        parts.append(f"{si_text(module.tokens)} tokens")
        return " · ".join(parts)


def _share_done(module: Any) -> float:
    return module.budget.progress(module.global_step, module.elapsed_seconds)
