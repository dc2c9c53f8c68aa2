"""The state of all runs below a folder, as a table."""

from pathlib import Path
from typing import TYPE_CHECKING

from mobilellm.launchers.overview import duration
from mobilellm.launchers.progress import Progress, read_progress
from mobilellm.run_folder import METRICS, SUMMARY

if TYPE_CHECKING:
    from rich.table import Table

SILENT_SECONDS = 600.0
COLOURS = {"finished": "green", "failed": "red", "stopped": "yellow", "running": "cyan"}


def find_runs(folder: Path) -> list[Path]:
    """Run folders at or below `folder`: those with a summary.json or a metrics.csv.

    Raises:
        FileNotFoundError: `folder` does not exist, or there is no run in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist; give a run's or a sweep's folder")
    found = {path.parent for name in (SUMMARY, METRICS) for path in folder.rglob(name)}
    if not found:
        raise FileNotFoundError(
            f"no run in {folder}: no {SUMMARY} at or below it; give a run's or a sweep's folder, "
            "e.g. outputs/depth_vs_width"
        )
    return sorted(found)


def status_table(folder: Path) -> "Table":
    """A row a run: status, steps, tokens, losses, and how long ago it wrote something.

    Raises:
        FileNotFoundError: as `find_runs`.
    """
    from rich.table import Table

    runs = {path: read_progress(path) for path in find_runs(folder)}
    table = Table(box=None, pad_edge=False, caption=_totals(list(runs.values())))
    table.add_column("run", overflow="fold")
    for column in ("status", "step", "tokens", "train loss", "val loss", "last written"):
        table.add_column(column, justify="left" if column == "status" else "right", no_wrap=True)
    for path, progress in runs.items():
        table.add_row(
            str(path.relative_to(folder)) if path != folder else path.name,
            _status(progress),
            "" if progress.step is None else f"{progress.step:,}",
            _tokens(progress),
            "" if progress.train_loss is None else f"{progress.train_loss:.3f}",
            "" if progress.val_loss is None else f"{progress.val_loss:.3f}",
            "" if progress.age_seconds is None else f"{duration(progress.age_seconds)} ago",
        )
        if progress.error and progress.status == "failed":
            table.add_row(f"  [red]{_escaped(progress.error)}[/red]")
    return table


def _status(progress: Progress) -> str:
    """The status, with a doubt where a run says that it runs but is silent."""
    colour = COLOURS.get(progress.status, "dim")
    silent = progress.status == "running" and (progress.age_seconds or 0) > SILENT_SECONDS
    return f"[{colour}]{progress.status}[/{colour}]" + (" (silent)" if silent else "")


def _tokens(progress: Progress) -> str:
    if progress.tokens is None:
        return ""
    share = "" if progress.share is None else f" ({progress.share:.0%})".replace("%", " %")
    return f"{progress.tokens:,}{share}"


def _totals(states: list[Progress]) -> str:
    names = [*COLOURS, *sorted({s.status for s in states} - set(COLOURS))]
    numbers = {name: sum(s.status == name for s in states) for name in names}
    return f"{len(states)} runs: " + ", ".join(f"{n} {name}" for name, n in numbers.items() if n)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(" ".join(text.split()))
