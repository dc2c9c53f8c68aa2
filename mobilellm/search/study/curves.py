"""The validation losses of a run while it trains, read from its metrics.csv."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilellm.run_folder import METRICS

COLUMNS = {"val_loss": "val/loss", "val_bits_per_byte": "val/bits_per_byte"}
"""By objective, the column of metrics.csv."""


@dataclass(frozen=True)
class Curve:
    """The losses of one trial, in ascending order of tokens."""

    number: int
    """Of the trial."""
    losses: tuple[tuple[int, float], ...]
    """Tokens trained on, and the loss of the validation after them."""
    costs: tuple[float, ...] = ()
    """The other objectives, as far as they are known from the shape; lower is better."""

    def loss_at(self, tokens: float) -> float | None:
        """The loss of the first validation at or after `tokens`; None if it has not come so far."""
        return next((loss for done, loss in self.losses if done >= tokens), None)

    def best_until(self, tokens: float) -> float | None:
        """The lowest loss up to the first validation at or after `tokens`."""
        if self.loss_at(tokens) is None:
            return None
        last = next(done for done, _ in self.losses if done >= tokens)
        return min(loss for done, loss in self.losses if done <= last)

    def until(self, tokens: int) -> "Curve":
        """The curve as it was after `tokens`."""
        return Curve(self.number, tuple(p for p in self.losses if p[0] <= tokens), self.costs)

    @property
    def tokens(self) -> int:
        """Tokens of the last validation; 0 if there was none."""
        return self.losses[-1][0] if self.losses else 0


def read_losses(folder: Path, metric: str = "val_loss") -> tuple[tuple[int, float], ...]:
    """Tokens and loss of every validation of a run.

    A row that is being written is left out, and so is what follows a file that cannot be read.

    Args:
        folder: of the run; it need not exist.
        metric: a key of `COLUMNS`.
    """
    try:
        with (folder / METRICS).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        return ()
    found: dict[int, float] = {}
    for row in rows:
        point = _point(row.get("tokens"), row.get(COLUMNS[metric]))
        if point is not None:
            found[point[0]] = point[1]
    return tuple(sorted(found.items()))


def _point(tokens: str | None, loss: str | None) -> tuple[int, float] | None:
    try:
        return int(float(tokens or "")), float(loss or "")
    except ValueError:
        return None


def is_no_larger(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether the first costs at most as much as the second in every respect."""
    return all(a <= b for a, b in zip(first, second, strict=True))
