"""Kendall's rank correlation of two measurements of the same models, with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mobilellm.report.statistics.intervals import INTERVAL

DRAWS = 10_000
"""Bootstrap samples of an interval."""


@dataclass(frozen=True)
class KendallTau:
    """Kendall's τ: the share of pairs in the same order minus the share in opposite order."""

    value: float
    """Between −1 and 1; pairs that are equal in one of the measurements count as 0."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end."""
    models: int
    pairs: int

    def __str__(self) -> str:
        """E.g. `0.86 [0.52, 1.00], 9 models, 36 pairs`."""
        return (
            f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}], {self.models} models, "
            f"{self.pairs} pairs"
        )


def kendall_tau(
    first: Sequence[float], second: Sequence[float], *, draws: int = DRAWS, seed: int = 0
) -> KendallTau:
    """Kendall's τ with its 95 % interval by the percentile bootstrap over models.

    A sample draws as many models as there are, with replacement. Only pairs of different models
    count in it, since a model has no order with itself.

    Args:
        first: one value per model.
        second: another value of the same models.
        draws: bootstrap samples.
        seed: of the samples.

    Raises:
        ValueError: the numbers of values differ, or there are fewer than 2.

    Source: Kendall 1938, A new measure of rank correlation (τ_a); Efron 1979 (bootstrap).
    """
    x, y = np.asarray(first, float), np.asarray(second, float)
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(
            f"Kendall's tau was given {len(x)} and {len(y)} values; give two values for each of at "
            "least 2 models"
        )
    signs = np.sign(x[:, None] - x[None, :]) * np.sign(y[:, None] - y[None, :])
    number = len(x)
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(number, np.full(number, 1 / number), size=draws)
    # Pairs of different models in a sample, each as often as both of its models were drawn.
    agreeing = np.einsum("di,ij,dj->d", counts, signs, counts)
    total = number**2 - (counts**2).sum(1)
    samples = agreeing[total > 0] / total[total > 0]
    tail = (1 - INTERVAL) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    pairs = number * (number - 1) // 2
    return KendallTau(float(signs.sum() / (2 * pairs)), float(low), float(high), number, pairs)
