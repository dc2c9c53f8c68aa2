"""Signal-to-noise ratio of a measure over shapes and seeds: whether it can tell shapes apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SignalToNoise:
    """How far shapes differ in a measure, compared with what the seed changes."""

    signal: float
    """Standard deviation of the means of the shapes."""
    noise: float
    """Standard deviation over seeds within a shape, pooled over the shapes."""
    p_value: float
    """Of one-way analysis of variance: chance of such differences if all shapes were equal."""
    shapes: int
    runs: int

    @property
    def ratio(self) -> float:
        """Signal divided by noise; infinite without noise, and 0 if the shapes are equal."""
        if self.signal == 0:
            return 0.0
        return self.signal / self.noise if self.noise else float("inf")


def signal_to_noise(values: Mapping[str, Sequence[float]]) -> SignalToNoise | None:
    """Compare the spread between shapes with the spread between seeds.

    Args:
        values: by shape, the measure of each of its seeds. Shapes with one seed count for the
            signal only.

    Returns:
        None without two shapes, or if no shape has two seeds.

    Source: Heineman et al. 2025, Signal and Noise, arXiv:2508.13144, with the standard deviation
    over seeds instead of that over the last checkpoints.
    """
    from scipy.stats import f as f_distribution  # slow to import

    samples = [np.asarray(list(each), dtype=np.float64) for each in values.values() if len(each)]
    degrees = sum(len(each) - 1 for each in samples)
    if len(samples) < 2 or degrees < 1:
        return None
    means = np.array([each.mean() for each in samples])
    within = sum(float(((each - each.mean()) ** 2).sum()) for each in samples)
    grand = float(np.concatenate(samples).mean())
    between = sum(len(each) * (each.mean() - grand) ** 2 for each in samples)
    noise = (within / degrees) ** 0.5
    if noise == 0:
        p_value = 0.0 if between else 1.0
    else:
        ratio = between / (len(samples) - 1) / noise**2
        p_value = float(f_distribution.sf(ratio, len(samples) - 1, degrees))
    runs = sum(map(len, samples))
    return SignalToNoise(float(means.std(ddof=1)), noise, p_value, len(samples), runs)
