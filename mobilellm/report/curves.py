"""Loss curves of runs, from metrics.csv."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Points:
    """A logged loss at several points of training."""

    tokens: tuple[float, ...] = ()
    """Training tokens seen."""
    seconds: tuple[float, ...] = ()
    """Wall time of training; NaN if it was not logged."""
    loss: tuple[float, ...] = ()
    """Nats per token."""

    def __len__(self) -> int:
        """Number of points."""
        return len(self.loss)


@dataclass(frozen=True)
class Curve:
    """The loss curves of one run."""

    validation: Points = Points()
    training: Points = Points()


@dataclass(frozen=True)
class MeanCurve:
    """Statistics of the loss over several runs, at common token counts."""

    tokens: np.ndarray
    seconds: np.ndarray
    """Mean wall time at these token counts."""
    mean: np.ndarray
    low: np.ndarray
    """The minimum over runs."""
    high: np.ndarray
    """The maximum over runs."""


def read_curve(path: Path) -> Curve:
    """Read metrics.csv; rows without finite numbers are skipped.

    Args:
        path: of the file; if it does not exist, the curve has no points.
    """
    if not path.exists():
        return Curve()
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return Curve(_points(rows, "val/loss"), _points(rows, "train/loss"))


def mean_curve(curves: Sequence[Points]) -> MeanCurve | None:
    """Compute mean and range of the losses of several runs at common token counts.

    The token counts are those of the run with the fewest points; the losses of the other runs are
    interpolated linearly.

    Returns:
        None if the runs have no common range of tokens.
    """
    if not curves or not all(len(points) for points in curves):
        return None
    first = max(points.tokens[0] for points in curves)
    last = min(points.tokens[-1] for points in curves)
    shortest = min(curves, key=len)
    grid = np.array([tokens for tokens in shortest.tokens if first <= tokens <= last])
    if not len(grid):
        return None
    losses = np.stack([np.interp(grid, points.tokens, points.loss) for points in curves])
    seconds = np.stack([np.interp(grid, points.tokens, points.seconds) for points in curves])
    return MeanCurve(
        grid, seconds.mean(axis=0), losses.mean(axis=0), losses.min(axis=0), losses.max(axis=0)
    )


def _points(rows: Sequence[Mapping[str, str | None]], column: str) -> Points:
    """The values of one column; a later row with the same tokens replaces an earlier one."""
    found: dict[float, tuple[float, float]] = {}
    for row in rows:
        tokens, loss = _number(row.get("tokens")), _number(row.get(column))
        if math.isfinite(tokens) and math.isfinite(loss):
            found[tokens] = (_number(row.get("seconds")), loss)
    ordered = sorted(found.items())
    return Points(
        tuple(tokens for tokens, _ in ordered),
        tuple(seconds for _, (seconds, _) in ordered),
        tuple(loss for _, (_, loss) in ordered),
    )


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
