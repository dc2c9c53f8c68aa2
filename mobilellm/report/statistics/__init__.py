"""Statistics over seeds: intervals, verdicts, noise and power, and adding seeds until a verdict."""

from mobilellm.report.statistics.intervals import INTERVAL, Interval, mean_interval
from mobilellm.report.statistics.noise import POWER, Noise
from mobilellm.report.statistics.sequential import level_until
from mobilellm.report.statistics.verdicts import (
    BETTER,
    EQUIVALENT,
    FAMILY_LEVEL,
    MINIMUM_COMMON_SEEDS,
    MINIMUM_SEEDS,
    NOT_COMPARABLE,
    NOT_DISTINGUISHABLE,
    TOO_FEW_SEEDS,
    WORSE,
    Judgement,
    Pair,
    check_margin,
    judge,
    paired_differences,
)

__all__ = [
    "BETTER",
    "EQUIVALENT",
    "FAMILY_LEVEL",
    "INTERVAL",
    "MINIMUM_COMMON_SEEDS",
    "MINIMUM_SEEDS",
    "NOT_COMPARABLE",
    "NOT_DISTINGUISHABLE",
    "POWER",
    "TOO_FEW_SEEDS",
    "WORSE",
    "Interval",
    "Judgement",
    "Noise",
    "Pair",
    "check_margin",
    "judge",
    "level_until",
    "mean_interval",
    "paired_differences",
]
