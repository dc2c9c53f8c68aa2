"""The state of all runs below a folder, as tables."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mobilellm.hydra_app.override_text import (
    by_key,
    is_shown,
    short_keys,
    shown_override,
    shown_value,
    varying_keys,
)
from mobilellm.launchers.monitor.progress import Progress, read_progress
from mobilellm.launchers.slurm.record import JOB, read_record
from mobilellm.launchers.slurm.state import RunState, run_states
from mobilellm.run_folder import METRICS, SUMMARY, folders_with
from mobilellm.units import elapsed_text, si_text

SILENT_SECONDS = 600.0
# Runs that differ in more keys are not shown as a sweep, but with their full names.
MOST_KEYS = 4
NUMBERS = ("step", "done", "tok/s", "train", "val", "age")
HASH = re.compile(r"[0-9a-f]{8}")
COLOURS = {
    "finished": "green", "failed": "red", "stopped": "yellow",
    "pruned": "yellow", "running": "cyan",
    "requeued": "magenta", "queued": "blue",
}  # fmt: skip


def find_runs(folder: Path) -> list[Path]:
    """Run folders at or below `folder`: those with a summary.json, metrics.csv or job.json.

    Raises:
        FileNotFoundError: `folder` does not exist, or there is no run in it.
    """
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{folder} {problem}; give a run's or a sweep's folder")
    found = list(folders_with(SUMMARY, METRICS, JOB, below=folder))
    if not found:
        raise FileNotFoundError(
            f"no run in {folder}: no {SUMMARY} at or below it; give a run's or a sweep's folder, "
            "e.g. outputs/depth_vs_width"
        )
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[str | int]:
    """Sort key that treats numbers as numbers: 2 comes before 16."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if number % 2 else part for number, part in enumerate(parts)]


def status_table(folder: Path) -> Group:
    """One row per run and one table per folder of runs, at most 80 characters wide.

    Overrides that all runs of a folder share are shown once, above the table. Each override in
    which they differ has a column, and a run is then shown as the hash at the end of its folder's
    name. Below the table are the reasons of failures and the logs of unfinished runs.

    Raises:
        FileNotFoundError: as `find_runs`.
    """
    runs = {path: read_progress(path) for path in find_runs(folder)}
    jobs, trouble = _jobs(runs)
    runs = {path: _with_job(progress, jobs[path]) for path, progress in runs.items()}
    parts: list[Any] = []
    for parent in dict.fromkeys(path.parent for path in runs):
        group = {path: progress for path, progress in runs.items() if path.parent == parent}
        parts += [*_folder_parts(folder, parent, group, jobs), ""]
    totals = "; ".join(filter(None, [_totals(list(runs.values())), trouble]))
    return Group(*parts, Text(totals, style="bold"))


def _folder_parts(
    folder: Path, parent: Path, runs: Mapping[Path, Progress], jobs: Mapping[Path, RunState]
) -> Iterator[Any]:
    """Heading, table and notes of the runs in one folder."""
    given = {path: by_key(filter(is_shown, run.overrides or ())) for path, run in runs.items()}
    keys = varying_keys([given[path] for path, run in runs.items() if run.overrides is not None])
    has_columns = len(keys) <= MOST_KEYS
    if has_columns:
        some = next((run for run in given.values() if run), {})
        common = [shown_override(f"{key}={some[key]}") for key in some if key not in keys]
    else:
        keys, common = [], []
    place = "" if parent in (folder, folder.parent) else f"{parent.relative_to(folder)}: "
    if place or common:
        yield Text(f"{place}{' '.join(common)}".rstrip(": "), style="dim")
    job_ids = {path: record.job_id for path in runs if (record := jobs[path].record)}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("run", overflow="fold")
    for heading in short_keys(keys).values():
        table.add_column(heading, overflow="fold")
    for column in ("status", *(["job"] if job_ids else []), *NUMBERS):
        table.add_column(column, justify="right" if column in NUMBERS else "left", no_wrap=True)
    names = _names(runs, short=has_columns)
    for path, run in runs.items():
        values = (shown_value(given[path].get(key, "")) for key in keys)
        job = [job_ids.get(path, "")] if job_ids else []
        table.add_row(names[path], *values, _status(run), *job, *_numbers(run))
    yield table
    for path, run in runs.items():
        yield from _notes(names[path], path, run, jobs[path])


def _names(runs: Mapping[Path, Progress], *, short: bool) -> dict[Path, str]:
    """Names of the runs: the hashes, if they are unique and columns show the overrides."""
    hashes = {path: path.name.rpartition("-")[2] for path in runs}
    is_unique = len(set(hashes.values())) == len(hashes)
    return {
        path: hashes[path]
        if short and is_unique and run.overrides is not None and HASH.fullmatch(hashes[path])
        else path.name
        for path, run in runs.items()
    }


def _numbers(run: Progress) -> tuple[str, ...]:
    return (
        _text(run.step, ",d"),
        "" if run.share is None else f"{run.share:.0%}".replace("%", " %"),
        "" if run.tokens_per_second is None else si_text(run.tokens_per_second),
        _text(run.train_loss, ".3f"),
        _text(run.val_loss, ".3f"),
        "" if run.age_seconds is None else elapsed_text(run.age_seconds),
    )


def _notes(name: str, path: Path, run: Progress, state: RunState) -> Iterator[Any]:
    """The reason of a failure, and the log of an unfinished run."""
    if run.status == "finished":
        return
    if run.error:
        colour = COLOURS.get(run.status, "dim")
        yield Text.assemble((f"{name}: ", "bold"), (" ".join(run.error.split()), colour))
    record = state.record
    log = Path(record.log) if record else path.parent / "logs" / f"{path.name}.log"
    if log.exists():
        yield Text.assemble((f"{name}: ", "bold"), (f"log: {os.path.relpath(log)}", "dim"))


def _jobs(runs: Mapping[Path, Progress]) -> tuple[dict[Path, RunState], str | None]:
    """The state of the runs according to SLURM, and the reason if SLURM does not answer."""
    try:
        return run_states(runs), None
    except ValueError as error:
        states = {
            path: RunState(status=progress.status, reason=progress.error, record=read_record(path))
            for path, progress in runs.items()
        }
        return states, f"from the files of the runs only: {error}"


def _with_job(progress: Progress, state: RunState) -> Progress:
    if state.record is None:
        return progress
    return replace(progress, status=state.status, error=state.reason)


def _status(progress: Progress) -> str:
    """The status; `silent` if the run is marked as running but has long written nothing."""
    silent = progress.status == "running" and (progress.age_seconds or 0) > SILENT_SECONDS
    colour = "yellow" if silent else COLOURS.get(progress.status, "dim")
    return f"[{colour}]{'silent' if silent else progress.status}[/{colour}]"


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _totals(states: list[Progress]) -> str:
    names = [*COLOURS, *sorted({s.status for s in states} - set(COLOURS))]
    numbers = {name: sum(s.status == name for s in states) for name in names}
    return f"{len(states)} runs: " + ", ".join(f"{n} {name}" for name, n in numbers.items() if n)
