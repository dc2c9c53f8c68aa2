"""Ways to compare all pairs of shapes, on many simulated sweeps at once.

Each takes the design and the losses (sweeps, seeds, shapes) and returns for each sweep and pair
whether the two are called different.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import digamma, polygamma

from mobilellm.report.statistics.block_design import BlockDesign, Floats
from mobilellm.report.statistics.simultaneous import largest_statistic

Found = NDArray[np.bool_]

LEVEL = 0.05
HOLM_LEVEL = 0.04
"""With which the project used Holm's procedure until version 0.2."""


def paired_t_and_holm(design: BlockDesign, losses: Floats) -> Found:
    """Paired t tests on at least 3 common seeds, with Holm's procedure: the former method."""
    p_values = np.ones((len(losses), len(design.pairs)))
    tested = []
    for place, (first, second) in enumerate(design.pairs):
        common = design.runs[:, first] & design.runs[:, second]
        if common.sum() < 3:
            continue
        tested.append(place)
        values = losses[:, common, first] - losses[:, common, second]
        error = values.std(1, ddof=1) / np.sqrt(common.sum())
        size = np.abs(values.mean(1)) / error
        p_values[:, place] = 2 * stats.t.sf(size, common.sum() - 1)
    found = np.zeros(p_values.shape, dtype=bool)
    order = np.argsort(p_values[:, tested], axis=1)
    ordered = np.take_along_axis(p_values[:, tested], order, 1)
    is_rejected = np.logical_and.accumulate(
        ordered <= HOLM_LEVEL / np.arange(len(tested), 0, -1), axis=1
    )
    rejected = np.zeros_like(is_rejected)
    np.put_along_axis(rejected, order, is_rejected, 1)
    found[:, tested] = rejected
    return found


def pooled_and_tukey(design: BlockDesign, losses: Floats) -> Found:
    """The residual variance of all runs, with Tukey's range (after Kramer, if runs are missing)."""
    pooled, _ = design.variances(losses)
    errors = np.sqrt(pooled[:, None] * design.factors / 2)
    limit = stats.studentized_range.isf(LEVEL, design.num_shapes, design.degrees)
    return np.abs(design.differences(losses)) / errors > limit


def moderated_and_tukey(design: BlockDesign, losses: Floats) -> Found:
    """A variance per shape, moderated as in limma, with Tukey's range at its degrees of freedom."""
    own, degrees = shape_variances(design, losses)
    found = np.zeros((len(losses), len(design.pairs)), dtype=bool)
    differences = np.abs(design.differences(losses))
    first, second = np.array(design.pairs).T
    table, limits = _studentized_ranges(design.num_shapes)
    for sweep, variances in enumerate(own):
        prior_degrees, prior_variance = fitted_prior(variances, degrees)
        if np.isinf(prior_degrees):
            moderated, total = np.full(len(variances), prior_variance), float(design.degrees)
        else:
            moderated = (prior_degrees * prior_variance + degrees * variances) / (
                prior_degrees + degrees
            )
            total = min(prior_degrees + degrees.min(), float(design.degrees))
        errors = np.sqrt((moderated[first] + moderated[second]) / 2 * design.factors / 2)
        found[sweep] = differences[sweep] / errors > np.interp(total, table, limits)
    return found


@lru_cache
def _studentized_ranges(num_shapes: int) -> tuple[Floats, Floats]:
    """Degrees of freedom and limits; the studentized range is slow to compute."""
    degrees = np.array([*range(1, 25), 30, 40, 60, 1e6], dtype=float)
    return degrees, stats.studentized_range.isf(LEVEL, num_shapes, degrees)


def common_limit(design: BlockDesign, losses: Floats) -> Found:
    """The package's method: one limit for all pairs under the least favourable noise."""
    return design.statistics(losses) > largest_statistic(design).limit(LEVEL)


METHODS: dict[str, Any] = {
    "paired t, Holm (before)": paired_t_and_holm,
    "pooled, Tukey": pooled_and_tukey,
    "limma, Tukey": moderated_and_tukey,
    "this method": common_limit,
}


def shape_variances(design: BlockDesign, losses: Floats) -> tuple[Floats, Floats]:
    """(sweeps, shapes): residual variance of each shape; (shapes): its degrees of freedom."""
    seeds, shapes = np.nonzero(design.runs)
    effects = np.hstack([np.eye(design.num_shapes)[shapes], np.eye(design.num_seeds)[seeds]])
    maker = np.eye(len(effects)) - effects @ np.linalg.pinv(effects)
    members = np.eye(design.num_shapes)[shapes]
    squares = (losses[:, design.runs] @ maker.T) ** 2 @ members
    return squares / (np.diag(maker) @ members), design.runs.sum(0) - 1.0


def fitted_prior(variances: Floats, degrees: Floats) -> tuple[float, float]:
    """Degrees of freedom and variance of the prior, by the moments of the log variances.

    Source: Smyth 2004, Statistical Applications in Genetics and Molecular Biology 3(1), section 6.
    With no more spread than chance gives, the degrees of freedom are infinite and the prior is the
    mean.
    """
    logs = np.log(variances) - digamma(degrees / 2) + np.log(degrees / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, degrees / 2).mean())
    if excess <= 0:
        return np.inf, float(variances.mean())
    prior = 2 * inverse_trigamma(excess)
    return prior, float(np.exp(logs.mean() + digamma(prior / 2) - np.log(prior / 2)))


def inverse_trigamma(value: float) -> float:
    """The number whose trigamma is `value` > 0, by Newton's method on 1 / trigamma."""
    number = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, number))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, number))
        number += step
        if abs(step) < 1e-10 * number:
            break
    return number
