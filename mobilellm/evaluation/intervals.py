"""Intervals of 95 % for proportions, and for sums over documents.

Sources: Wilson 1927, "Probable inference, the law of succession, and statistical inference";
Efron 1979, "Bootstrap methods: another look at the jackknife".
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
"""Bootstrap samples per interval."""

# The 97.5 % quantile of the normal distribution, for intervals of 95 %.
_QUANTILE = 1.959963984540054
_TAILS = (2.5, 97.5)
# The most documents that are drawn together, for all samples of a block.
_DRAWN = 2**15


def wilson_interval(correct: float, count: int) -> tuple[float, float]:
    """Compute the interval of a probability, given `correct` of `count` independent trials.

    `correct` need not be a whole number: an answer that is tied with others counts as a fraction.
    The interval is then slightly too wide, because such trials vary less.
    """
    share, z = correct / count, _QUANTILE
    scale = 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap_intervals(
    ratios: Sequence[tuple[ArrayLike, ArrayLike]], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[tuple[float, float] | None]:
    """Compute the interval of each ratio of two sums over documents.

    The documents are drawn with replacement, the same ones for all ratios, and the interval lies
    between the quantiles of the ratio over the samples. Samples in which all denominators are 0 are
    left out.

    Args:
        ratios: numerators and denominators of each, (documents,) each: bits and bytes give bits
            per byte, and values with denominators of 1 their mean.
        resamples: number of samples.
        seed: of the drawing, so that the same documents give the same intervals.

    Returns:
        Both ends for each ratio; None if less than 2 documents have a denominator other than 0,
        because all samples are then equal, whatever the ratio of other documents would be.

    Raises:
        ValueError: there are no documents.
    """
    columns = [np.asarray(part, dtype=np.float64) for ratio in ratios for part in ratio]
    table = np.stack(columns, axis=1)
    count = table.shape[0]
    if count == 0:
        raise ValueError("an interval needs at least 1 document; 0 were given")
    generator = np.random.default_rng(seed)
    size = max(1, _DRAWN // count)
    blocks = [min(size, resamples - first) for first in range(0, resamples, size)]
    sums = np.concatenate([_resampled_sums(table, block, generator) for block in blocks])
    above, below = sums[:, 0::2], sums[:, 1::2]
    found = np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)
    low, high = np.nanpercentile(found, _TAILS, axis=0)
    counted = np.count_nonzero(table[:, 1::2], axis=0)
    return [
        (float(a), float(b)) if documents > 1 else None
        for a, b, documents in zip(low, high, counted, strict=True)
    ]


def _resampled_sums(
    table: NDArray[np.float64], samples: int, generator: np.random.Generator
) -> NDArray:
    """Sums of the columns of `table` (documents, columns) over samples of its rows.

    Returns:
        (samples, columns)
    """
    count = table.shape[0]
    drawn = generator.integers(count, size=(samples, count))
    drawn += count * np.arange(samples)[:, np.newaxis]
    times = np.bincount(drawn.ravel(), minlength=samples * count).reshape(samples, count)
    return times.astype(np.float64) @ table
