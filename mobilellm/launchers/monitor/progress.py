"""The progress of a run, read from the files in its folder."""

import csv
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mobilellm.run_folder import METRICS, read_summary

TAIL_BYTES = 65536

T = TypeVar("T", int, float)


@dataclass(frozen=True)
class Progress:
    """The progress of a run; values that are not known yet are `None`."""

    status: str = "waiting"
    """`waiting`, or the status in summary.json: running, finished, stopped or failed."""
    error: str | None = None
    step: int | None = None
    """Number of optimizer steps taken."""
    tokens: int | None = None
    """Number of tokens trained on."""
    share: float | None = None
    """Share of the budget used, 0 to 1, by the limit that will end the run first."""
    train_loss: float | None = None
    """Nats per token."""
    val_loss: float | None = None
    """Nats per token."""
    tokens_per_second: float | None = None
    """In the last logged interval, or of the whole run once it has finished."""
    age_seconds: float | None = None
    """Seconds since the last change of a file in the run folder."""
    overrides: tuple[str, ...] | None = None
    """Overrides of the command line; None if they are not known yet."""


def read_progress(folder: Path | None) -> Progress:
    """Read summary.json and the end of metrics.csv; both may be missing or incomplete."""
    if folder is None or not folder.exists():
        return Progress()
    try:
        summary = read_summary(folder) or {}
    except ValueError:
        summary = {}
    last = _last_values(folder / METRICS)
    files = [path for path in folder.iterdir() if path.is_file()]
    newest = max((path.stat().st_mtime for path in files), default=None)
    finished = summary.get("status") == "finished"
    overrides = summary.get("overrides")
    return Progress(
        status=str(summary.get("status") or ("running" if last else "waiting")),
        error=summary.get("error"),
        step=_number(summary.get("steps") if finished else last.get("step"), int),
        tokens=_number(summary.get("tokens") if finished else last.get("tokens"), int),
        share=1.0 if finished else _share(summary, last),
        train_loss=_number(last.get("train/loss"), float),
        val_loss=_number(summary.get("val_loss") if finished else last.get("val/loss"), float),
        tokens_per_second=_number((summary if finished else last).get("tokens_per_second"), float),
        age_seconds=None if newest is None else max(0.0, time.time() - newest),
        overrides=tuple(map(str, overrides)) if isinstance(overrides, list) else None,
    )


def _share(summary: Mapping[str, object], last: Mapping[str, str]) -> float | None:
    """Share of the budget used, 0 to 1; of several limits the one that is nearest to its end."""
    limits = {
        done: _number(summary.get(limit), float)
        for done, limit in (
            ("tokens", "max_tokens"),
            ("step", "max_steps"),
            ("seconds", "max_seconds"),
        )
    }
    per_step = _number(summary.get("tokens_per_step"), int)
    if per_step and limits["tokens"]:
        # A run takes only whole steps.
        limits["tokens"] = max(1, limits["tokens"] // per_step) * per_step
    shares = [
        value / limit
        for done, limit in limits.items()
        if limit and (value := _number(last.get(done), float)) is not None
    ]
    return min(1.0, max(shares)) if shares else None


def _last_values(path: Path) -> dict[str, str]:
    """The last value of each column, empty cells ignored."""
    try:
        with path.open("rb") as file:
            header = file.readline().decode()
            size = file.seek(0, 2)
            file.seek(max(len(header.encode()), size - TAIL_BYTES))
            tail = file.read().decode(errors="replace")
    except OSError:
        return {}
    # The first line of the tail may be part of a row, and the last one may be incomplete.
    whole = tail[: tail.rfind("\n") + 1].splitlines()
    columns = next(csv.reader([header]), [])
    values: dict[str, str] = {}
    for row in csv.reader(whole):
        if len(row) == len(columns):
            values.update({name: value for name, value in zip(columns, row) if value.strip()})  # noqa: B905
    return values


def _number(value: object, kind: type[T]) -> T | None:
    try:
        return kind(float(value))  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError):
        return None
