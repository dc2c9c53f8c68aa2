"""Search for the best order of rows and columns from several starting orders.

The orders are improved by linear assignments. After each sweep the worse half of them is dropped
(successive halving). Simulated annealing can then improve the best one.

Source: Jamieson and Talwalkar 2016, Non-stochastic best arm identification (successive halving),
arXiv:1502.07943; Kirkpatrick et al. 1983, Optimization by simulated annealing.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from mobilellm.compression.algorithms.arrangement import Arrangement, assigned, batches, swapped
from mobilellm.compression.algorithms.kronecker import truncated_svd
from mobilellm.ranges import MAX_INDEX, MAX_SEED, Range, check_fields

# The search ends after a sweep that lowers the squared error by less than this share.
TOLERANCE = 1e-3
# An order with at most this squared error is regarded as exact.
EXACT = 1e-12


@dataclass(frozen=True, kw_only=True)
class PermutationSearch:
    """Starting orders and limits of a permutation search.

    Raises:
        ValueError: a number is out of range.
    """

    restarts: int = 4
    """Number of random starting orders, in addition to the present one and two sorted ones."""
    annealing_swaps: int = 0
    """Number of swaps that simulated annealing proposes on the best order, which is then improved
    by assignments again; 0 turns annealing off."""
    max_sweeps: int = 50
    """Largest number of sweeps per start; a sweep reassigns every row and column once."""
    seed: int = 0
    """Seed of all random numbers; it determines the result unless the time limit is reached."""
    max_seconds: float | None = None
    """Wall-clock limit, checked between assignments; the best order found by then is returned."""

    def __post_init__(self) -> None:
        """Check."""
        count = Range(at_least=0, cap=MAX_INDEX)
        check_fields(
            self,
            restarts=count,
            annealing_swaps=count,
            max_sweeps=Range(at_least=1, cap=MAX_INDEX),
            seed=Range(at_least=0, cap=MAX_SEED),
            max_seconds=Range(above=0, remedy="null for no limit"),
        )


def parsed_search(values: PermutationSearch | Mapping[str, Any] | None) -> PermutationSearch:
    """The settings of a search, of which some or all fields may be given.

    Raises:
        ValueError: a field is unknown, or a number is out of range.
        TypeError: `values` is neither.
    """
    if isinstance(values, PermutationSearch):
        return values
    if values is not None and not isinstance(values, Mapping):
        raise TypeError(
            f"permutation_search={values!r} must be settings, e.g. {{max_seconds: 2}}, or null"
        )
    try:
        return PermutationSearch(**(values or {}))
    except TypeError as error:
        names = ", ".join(field.name for field in fields(PermutationSearch))
        raise ValueError(f"permutation_search: {error}; it has {names}") from error


class Race:
    """One run of the search, with its random number generator and its deadline."""

    def __init__(self, search: PermutationSearch) -> None:
        """Seed the generator and set the deadline."""
        self.search = search
        self.generator = torch.Generator().manual_seed(search.seed)
        limit = search.max_seconds
        self.deadline = math.inf if limit is None else time.monotonic() + limit

    def best(self, identity: Arrangement) -> Arrangement:
        """The best order found; never worse than `identity`."""
        starts = chain(sorted_starts(identity), self.random_starts(identity))
        best = self.race(identity, starts)
        if self.search.annealing_swaps and best.squared_error > EXACT:
            best = max(best, self.improved(self.annealed(best)), key=lambda a: a.gain)
        return best

    @property
    def is_out_of_time(self) -> bool:
        """Whether the time limit is reached."""
        return time.monotonic() >= self.deadline

    def random_starts(self, identity: Arrangement) -> Iterator[Arrangement]:
        """Random starting orders, `restarts` of them, created one at a time."""
        for _ in range(self.search.restarts):
            keys = [torch.rand(s.num_units, generator=self.generator) for s in identity.sides]
            yield _sorted_by(identity, keys)

    def race(self, identity: Arrangement, others: Iterable[Arrangement]) -> Arrangement:
        """The best order from all starts; the worse half is dropped after every sweep."""
        best, racing = identity, chain([identity], others)
        for _ in range(self.search.max_sweeps):
            before = best.squared_error
            swept = []
            for arrangement in racing:
                swept.append(self.sweep(arrangement))
                best = max(best, swept[-1], key=lambda a: a.gain)
                if self.is_out_of_time or best.squared_error <= EXACT:
                    return best
            if len(swept) == 1 and best.squared_error > (1 - TOLERANCE) * before:
                break
            swept.sort(key=lambda a: -a.gain)
            racing = swept[: (len(swept) + 1) // 2]
        return best

    def improved(self, arrangement: Arrangement) -> Arrangement:
        """Sweep one order until it no longer improves."""
        return self.race(arrangement, [])

    def sweep(self, arrangement: Arrangement) -> Arrangement:
        """Reassign every unit of every side once."""
        for index, side in enumerate(arrangement.sides):
            for places in batches(side, arrangement.parts, self.generator):
                if self.is_out_of_time:
                    return arrangement
                arrangement = assigned(arrangement, index, places)
        return arrangement

    def annealed(self, arrangement: Arrangement) -> Arrangement:
        """The order after simulated annealing, which may be better or worse.

        The temperature falls linearly to zero.
        """
        tried, initial = 0, None
        while tried < self.search.annealing_swaps and not self.is_out_of_time:
            before = tried
            for index, side in enumerate(arrangement.sides):
                for places in batches(side, arrangement.parts, self.generator):
                    left = 1 - tried / self.search.annealing_swaps
                    if left <= 0 or self.is_out_of_time:
                        return arrangement
                    temperature = None if initial is None else initial * left
                    arrangement, pairs, used = swapped(
                        arrangement, index, places, temperature, self.generator
                    )
                    initial = used if initial is None and pairs else initial
                    tried += pairs
            if tried == before:  # There are too few units to form a pair.
                break
        return arrangement


def sorted_starts(identity: Arrangement) -> list[Arrangement]:
    """Two orders: units sorted by norm, and by their entry in the leading singular vector."""
    norms, vectors = [], []
    for side in identity.sides:
        rows = torch.cat(
            [
                (identity.weights[i].T if dim else identity.weights[i]).reshape(side.num_units, -1)
                for i, dim in side.members
            ],
            dim=1,
        )
        norms.append(torch.linalg.vector_norm(rows, dim=1))
        vectors.append(truncated_svd(rows, 1)[0][:, 0])
    return [_sorted_by(identity, norms), _sorted_by(identity, vectors)]


def _sorted_by(arrangement: Arrangement, keys: Sequence[Tensor]) -> Arrangement:
    """The units of each side sorted by their keys within groups; one tensor of keys per side."""
    for index, (side, key) in enumerate(zip(arrangement.sides, keys, strict=True)):
        order = key.argsort()
        order = order[side.group_of(order).argsort(stable=True)]
        arrangement = arrangement.reordered(index, order)
    return arrangement
