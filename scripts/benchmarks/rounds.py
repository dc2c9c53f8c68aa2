"""Measures contestants in alternation, so that other work on the machine affects all alike."""

import statistics
import time
from collections.abc import Callable, Mapping

Contestant = Callable[[], object]


def alternate(contestants: Mapping[str, Contestant], *, rounds: int) -> dict[str, list[float]]:
    """Measure the seconds of each contestant in each round, after one warm-up call each.

    Each round reverses the order of the contestants.
    """
    for contestant in contestants.values():
        contestant()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        names = list(contestants)
        for name in names if number % 2 == 0 else names[::-1]:
            start = time.perf_counter()
            contestants[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(seconds: Mapping[str, list[float]], ours: str, theirs: str) -> float:
    """Return the speed of `ours` relative to `theirs`: the median of the ratios within rounds."""
    pairs = zip(seconds[theirs], seconds[ours], strict=True)
    return statistics.median(theirs_took / ours_took for theirs_took, ours_took in pairs)


def repeated(contestant: Contestant, *, seconds: float) -> tuple[Contestant, int]:
    """Return a contestant that repeats another for about this time, and the number of repeats."""
    contestant()
    start = time.perf_counter()
    contestant()
    count = max(1, round(seconds / (time.perf_counter() - start)))

    def repeat() -> None:
        for _ in range(count):
            contestant()

    return repeat, count
