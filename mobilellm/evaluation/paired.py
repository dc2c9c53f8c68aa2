"""Comparison of two models on the same documents, in pairs.

Documents differ far more among each other than models do on one document, so that differences per
document show what two separate intervals cannot.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class PairedDifference:
    """The mean of the first minus the second over documents."""

    mean: float
    low: float
    high: float
    """Ends of the interval of 95 %."""
    p_value: float
    """Two-sided."""
    documents: int


def compare_correct(first: ArrayLike, second: ArrayLike) -> PairedDifference:
    """Compare how often two models are right, by McNemar's exact test.

    Only the documents on which the models differ count: without a difference between the models,
    each is better on half of them. The interval is that of the paired t statistic.

    Args:
        first: for each document 1 if the first model is right and 0 if not, or a fraction for a
            tie, (documents,).
        second: the same for the second model.

    Raises:
        ValueError: the models have different numbers of documents, or less than 2.

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated
    proportions or percentages".
    """
    from scipy.stats import binomtest  # slow to import

    difference = _differences(first, second)
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    p_value = binomtest(better, better + worse).pvalue if better + worse else 1.0
    mean, low, high, _ = _t_interval(difference)
    return PairedDifference(mean, low, high, float(p_value), len(difference))


def compare_means(first: ArrayLike, second: ArrayLike) -> PairedDifference:
    """Compare the means of two models over documents, by the paired t test.

    Args:
        first: a value per document of the first model, (documents,).
        second: the same for the second model.

    Raises:
        ValueError: the models have different numbers of documents, or less than 2.
    """
    difference = _differences(first, second)
    return PairedDifference(*_t_interval(difference), len(difference))


def compare_ratios(first: ArrayLike, second: ArrayLike, sizes: ArrayLike) -> PairedDifference:
    """Compare two ratios of sums over documents, by the paired t test.

    Bits per byte of a set of documents are the sum of their bits divided by the sum of their bytes;
    the difference of two such ratios is the sum of the differences divided by the bytes.

    Args:
        first: numerators of the first model, (documents,).
        second: numerators of the second model.
        sizes: denominators, which both models have in common.

    Raises:
        ValueError: the numbers of documents differ, or there are less than 2.
    """
    size = np.asarray(sizes, dtype=np.float64)
    difference = _differences(first, second)
    ratio = difference.sum() / size.sum()
    # The linearised ratio: its mean is the ratio, and its variance that of the ratio.
    linear = ratio + (difference - ratio * size) / size.mean()
    return PairedDifference(*_t_interval(linear), len(difference))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values so that the chance of any wrong rejection is that of a single test.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def _differences(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    left, right = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 1 or len(left) < 2:
        raise ValueError(
            f"the models have {left.size} and {right.size} documents; give at least 2, the same "
            "ones for both"
        )
    return left - right


def _t_interval(values: np.ndarray) -> tuple[float, float, float, float]:
    """Mean, the ends of its interval of 95 %, and the p-value of a mean of 0."""
    from scipy.stats import t  # slow to import

    count = len(values)
    mean, error = float(values.mean()), float(values.std(ddof=1)) / count**0.5
    half = float(t.ppf(0.975, count - 1)) * error
    if error == 0:
        return mean, mean, mean, 1.0 if mean == 0 else 0.0
    return mean, mean - half, mean + half, float(2 * t.sf(abs(mean) / error, count - 1))
