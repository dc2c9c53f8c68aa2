"""Measure contestants in turn, so that whatever slows the machine slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping

Contestant = Callable[[], object]


def alternate(contestants: Mapping[str, Contestant], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, after one call each to warm up.

    The order turns around with every round.
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
    """How many times as fast `ours` is: the median over rounds of the quotient within a round."""
    pairs = zip(seconds[theirs], seconds[ours], strict=True)
    return statistics.median(theirs_took / ours_took for theirs_took, ours_took in pairs)


def repeated(contestant: Contestant, *, seconds: float) -> tuple[Contestant, int]:
    """A contestant that repeats another for about so long, and how often that is."""
    contestant()
    start = time.perf_counter()
    contestant()
    count = max(1, round(seconds / (time.perf_counter() - start)))

    def repeat() -> None:
        for _ in range(count):
            contestant()

    return repeat, count
