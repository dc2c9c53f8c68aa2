"""Which multiples of the configured learning rate a probe tries."""

from collections.abc import Sequence


def further_factor(factors: Sequence[float], losses: Sequence[float | None]) -> float | None:
    """The next factor beyond the best one if that is the lowest or highest tried; else None.

    It continues the spacing at that end. If training diverged with every factor, the next one is
    lower. A single factor has no spacing.

    Args:
        factors: that were tried, in ascending order.
        losses: validation loss of each; None where training diverged.
    """
    if len(factors) < 2:
        return None
    known = [(loss, place) for place, loss in enumerate(losses) if loss is not None]
    best = min(known)[1] if known else 0
    if best == 0:
        return factors[0] ** 2 / factors[1]
    return factors[-1] ** 2 / factors[-2] if best == len(factors) - 1 else None


def possible_factors(factors: Sequence[float], widenings: int) -> list[float]:
    """All factors that a probe may try, in ascending order.

    Args:
        factors: as configured.
        widenings: largest number of further factors.
    """
    found = sorted(factors)
    if len(found) < 2:
        return found
    down, up = found[0] / found[1], found[-1] / found[-2]
    below = [found[0] * down**n for n in range(widenings, 0, -1)]
    return [*below, *found, *(found[-1] * up**n for n in range(1, widenings + 1))]
