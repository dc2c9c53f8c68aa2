"""Chooses learning rate and batch of several contenders with equal effort.

1. Every contender is trained with every learning rate at one batch size. While the best rate of any
   of them is the lowest or highest one, the grid grows in that direction for all.
2. Then other batch sizes are tried, each twice or half the one before, in both directions. Each
   contender is trained with its best rate at the batch before, and with that rate changed by the
   same factor as the batch, since a larger batch allows a larger rate; if the latter is best for
   any contender, all are trained with one rate more. A direction ends when no contender is best at
   its last batch.

So all contenders get the same number of trials, and a grid that suits one of them is never too
narrow for another.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Measure = Callable[[str, float, int], float]
"""Maps contender, learning rate and tokens per step to a loss, which is infinite on divergence."""


@dataclass(frozen=True)
class Tuned:
    """The best settings of a contender."""

    learning_rate: float
    tokens_per_step: int
    loss: float
    """Validation loss of the trial, in nats per token."""
    trials: int
    """Number of trials."""
    rate_is_interior: bool
    """Whether lower and higher learning rates were tried at the first batch size."""
    batch_is_interior: bool
    """Whether smaller and larger batches were tried, or the batch is a single window."""


def tune(
    names: Sequence[str],
    measure: Measure,
    *,
    learning_rates: Sequence[float],
    tokens_per_step: int,
    smallest: int,
    widenings: int,
) -> dict[str, Tuned]:
    """Find the best settings of each contender.

    Args:
        names: the contenders.
        measure: trains a contender and returns its validation loss.
        learning_rates: first rates to try, spaced by factors of two.
        tokens_per_step: first batch size, in tokens.
        smallest: smallest possible batch: one window.
        widenings: how often the grid may grow in each of the two steps and directions.
    """
    search = _Search(names, measure, widenings)
    search.try_rates(learning_rates, tokens_per_step)
    ends = [search.try_batches(tokens_per_step, factor, smallest) for factor in (0.5, 2.0)]
    return {name: search.result(name, tokens_per_step, ends, smallest) for name in names}


class _Search:
    def __init__(self, names: Sequence[str], measure: Measure, widenings: int) -> None:
        self.names, self.measure, self.widenings = names, measure, widenings
        self.losses: dict[str, dict[tuple[float, int], float]] = {name: {} for name in names}

    def run(self, name: str, rate: float, batch: int) -> None:
        self.losses[name][rate, batch] = self.measure(name, rate, batch)

    def rates(self, name: str, batch: int) -> list[float]:
        return sorted(rate for rate, size in self.losses[name] if size == batch)

    def best_rate(self, name: str, batch: int) -> float:
        return min(self.rates(name, batch), key=lambda rate: self.losses[name][rate, batch])

    def best(self, name: str) -> tuple[float, int]:
        return min(self.losses[name], key=self.losses[name].__getitem__)

    def try_rates(self, rates: Sequence[float], batch: int) -> None:
        """Try these rates, and more while one at the edge is best for any contender."""
        lowest, highest = min(rates), max(rates)
        further = sorted(rates)
        for widening in range(self.widenings + 1):
            for rate in further:
                for name in self.names:
                    self.run(name, rate, batch)
            found = {self.best_rate(name, batch) for name in self.names}
            further = []
            if lowest in found:
                lowest /= 2
                further.append(lowest)
            if highest in found:
                highest *= 2
                further.append(highest)
            if not further or widening == self.widenings:
                return

    def try_batches(self, batch: int, factor: float, smallest: int) -> int:
        """Try batches in one direction; returns the last one that was tried."""
        for _ in range(self.widenings + 1):
            following = round(batch * factor)
            if following < smallest:
                break
            tried = {name: self.best_rate(name, batch) for name in self.names}
            for name, rate in tried.items():
                self.run(name, rate, following)
            for _ in range(self.widenings + 1):
                tried = {name: rate * factor for name, rate in tried.items()}
                for name, rate in tried.items():
                    self.run(name, rate, following)
                if not any(self.best_rate(name, following) == tried[name] for name in self.names):
                    break
            batch = following
            if not any(self.best(name)[1] == batch for name in self.names):
                break
        return batch

    def result(self, name: str, first: int, ends: Sequence[int], smallest: int) -> Tuned:
        rate, batch = self.best(name)
        rates, at_first = self.rates(name, first), self.best_rate(name, first)
        return Tuned(
            learning_rate=rate,
            tokens_per_step=batch,
            loss=self.losses[name][rate, batch],
            trials=len(self.losses[name]),
            rate_is_interior=rates[0] < at_first < rates[-1]
            and math.isfinite(self.losses[name][rate, batch]),
            batch_is_interior=batch < ends[1] and (batch > ends[0] or batch < 2 * smallest),
        )
