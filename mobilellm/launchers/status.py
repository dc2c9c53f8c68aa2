"""The state of all runs below a folder, as a table."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mobilellm.launchers.overview import duration
from mobilellm.launchers.progress import Progress, read_progress
from mobilellm.launchers.slurm_record import JOB, read_record
from mobilellm.launchers.slurm_state import RunState, run_states
from mobilellm.run_folder import METRICS, SUMMARY

if TYPE_CHECKING:
    from rich.table import Table

SILENT_SECONDS = 600.0
COLOURS = {
    "finished": "green", "failed": "red", "stopped": "yellow", "running": "cyan",
    "requeued": "magenta", "queued": "blue",
}  # fmt: skip


def find_runs(folder: Path) -> list[Path]:
    """Run folders at or below `folder`: those with a summary.json, metrics.csv or job.json.

    Raises:
        FileNotFoundError: `folder` does not exist, or there is no run in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist; give a run's or a sweep's folder")
    found = {path.parent for name in (SUMMARY, METRICS, JOB) for path in folder.rglob(name)}
    if not found:
        raise FileNotFoundError(
            f"no run in {folder}: no {SUMMARY} at or below it; give a run's or a sweep's folder, "
            "e.g. outputs/depth_vs_width"
        )
    return sorted(found)


def status_table(folder: Path) -> "Table":
    """A row a run: status, job, steps, tokens, rate, losses, and how long ago it wrote something.

    Below a run that failed stands why, and below one that has not finished where its log is.

    Raises:
        FileNotFoundError: as `find_runs`.
    """
    from rich.table import Table

    runs = {path: read_progress(path) for path in find_runs(folder)}
    jobs, trouble = _jobs(runs)
    runs = {path: _with_job(progress, jobs[path]) for path, progress in runs.items()}
    caption = "; ".join(filter(None, [_totals(list(runs.values())), trouble]))
    table = Table(box=None, pad_edge=False, caption=_escaped(caption))
    table.add_column("run", overflow="fold")
    has_jobs = any(state.record for state in jobs.values())
    columns = ["status", *(["job"] if has_jobs else []), "step", "tokens", "tokens/s"]
    for column in (*columns, "train loss", "val loss", "last written"):
        is_text = column in ("status", "job")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=True)
    for path, progress in runs.items():
        record = jobs[path].record
        table.add_row(
            str(path.relative_to(folder)) if path != folder else path.name,
            _status(progress),
            *([record.job_id if record else ""] if has_jobs else []),
            _text(progress.step, ",d"),
            _tokens(progress),
            _text(progress.tokens_per_second, ",.0f"),
            _text(progress.train_loss, ".3f"),
            _text(progress.val_loss, ".3f"),
            "" if progress.age_seconds is None else f"{duration(progress.age_seconds)} ago",
        )
        if progress.error and progress.status != "finished":
            colour = COLOURS.get(progress.status, "dim")
            table.add_row(f"  [{colour}]{_escaped(progress.error)}[/{colour}]")
        log = Path(record.log) if record else path.parent / "logs" / f"{path.name}.log"
        if progress.status != "finished" and log.exists():
            table.add_row(f"  [dim]log: {_escaped(os.path.relpath(log))}[/dim]")
    return table


def _jobs(runs: Mapping[Path, Progress]) -> tuple[dict[Path, RunState], str | None]:
    """What SLURM says of the runs; and where it says nothing, why."""
    try:
        return run_states(runs), None
    except ValueError as error:
        states = {
            path: RunState(status=progress.status, reason=progress.error, record=read_record(path))
            for path, progress in runs.items()
        }
        return states, f"from the runs' files alone: {error}"


def _with_job(progress: Progress, state: RunState) -> Progress:
    if state.record is None:
        return progress
    return replace(progress, status=state.status, error=state.reason)


def _status(progress: Progress) -> str:
    """The status, with a doubt where a run says that it runs but is silent."""
    colour = COLOURS.get(progress.status, "dim")
    silent = progress.status == "running" and (progress.age_seconds or 0) > SILENT_SECONDS
    return f"[{colour}]{progress.status}[/{colour}]" + (" (silent)" if silent else "")


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


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
