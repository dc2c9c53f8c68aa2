"""Final losses of runs of several sizes, depths, token budgets and seeds, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

SIZE_GAP = 1.15
"""Body parameters that differ by more than this factor from the next smaller ones are another
size."""
TOKEN_GAP = 1.03
"""Token counts that differ by less than this factor belong to one budget: runs end after a whole
optimizer step, and shapes of one size differ a little."""


def number_sizes(body: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
    """The number of the size that each model has, from small to large; see `SIZE_GAP`.

    Args:
        body: body parameters of each model, (models,).
    """
    order = np.unique(body)
    steps = np.concatenate([[0], np.cumsum(order[1:] > SIZE_GAP * order[:-1])])
    return steps[np.searchsorted(order, body)]


@dataclass(frozen=True)
class LadderRuns:
    """One entry per finished run."""

    depth: NDArray[np.float64]
    """Layers that run per token."""
    width: NDArray[np.float64]
    """Width of the residual stream."""
    body: NDArray[np.float64]
    """Parameters without embeddings."""
    tokens: NDArray[np.float64]
    """Training tokens."""
    seeds: NDArray[np.int64]
    loss: NDArray[np.float64]
    """Final validation loss in nats per token."""

    def __post_init__(self) -> None:
        """Check the lengths and the values.

        Raises:
            ValueError: the arrays have different lengths or are empty, or a value is not positive.
        """
        arrays = (self.depth, self.width, self.body, self.tokens, self.loss)
        lengths = {len(array) for array in (*arrays, self.seeds)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"the arrays of a ladder have lengths {sorted(lengths)}, not one")
        if any(not np.isfinite(array).all() or (array <= 0).any() for array in arrays):
            raise ValueError("sizes, tokens and losses of a ladder must be above 0 and finite")

    def features(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Columns of the given names: depth, width, body or tokens; (runs, names)."""
        return np.stack([getattr(self, name) for name in names], axis=1)

    def where(self, is_kept: NDArray[np.bool_]) -> "LadderRuns":
        """Some of the runs."""
        return LadderRuns(*(getattr(self, field.name)[is_kept] for field in fields(self)))

    @property
    def has_most_tokens(self) -> NDArray[np.bool_]:
        """Whether each run has the largest number of tokens of all runs."""
        return self.tokens * TOKEN_GAP >= self.tokens.max()

    @cached_property
    def shapes(self) -> NDArray[np.int64]:
        """The number of each run's shape; runs of one shape differ in tokens and seed."""
        columns = np.stack([self.body, self.depth, self.width], axis=1)
        return np.unique(columns, axis=0, return_inverse=True)[1].reshape(-1)

    @property
    def shape_names(self) -> NDArray[np.int64]:
        """The numbers of the shapes."""
        return np.unique(self.shapes)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """The number of each run's size, from small to large."""
        return number_sizes(self.body)

    @property
    def size_names(self) -> NDArray[np.int64]:
        """The numbers of the sizes, from small to large."""
        return np.unique(self.sizes)

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """The number of each combination of shape and tokens; its runs differ in the seed."""
        columns = np.stack([self.shapes.astype(float), self.tokens], axis=1)
        return np.unique(columns, axis=0, return_inverse=True)[1].reshape(-1)

    @cached_property
    def seed_deviation(self) -> float:
        """Standard deviation of log loss over seeds, pooled; 0 if no cell has two seeds."""
        squares, freedom = 0.0, 0
        for cell in np.unique(self.cells):
            logs = np.log(self.loss[self.cells == cell])
            squares += float(((logs - logs.mean()) ** 2).sum())
            freedom += len(logs) - 1
        return float(np.sqrt(squares / freedom)) if freedom else 0.0
