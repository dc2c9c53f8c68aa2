"""How well the law of the loss predicts runs that it was not fitted to."""

from dataclasses import dataclass

import numpy as np

from mobilellm.search.ladder_runs import LadderRuns
from mobilellm.search.loss_law import (
    FEATURES,
    SIMPLE_FEATURES,
    LossLaw,
    best_fit,
    cell_errors,
    huber_delta,
    missing_for_law,
    relative_error,
)
from mobilellm.search.power_sum import Array, fit_power_sums, parameters_of

FEWEST_SIZES = 2
"""Sizes that a law needs to be tested on a larger one."""
FEWEST_DEPTHS = 2
"""Depths of the largest size, among which the law finds the best."""


@dataclass(frozen=True)
class CrossValidation:
    """Relative errors of predictions for runs that were left out of the fit."""

    law: float
    simple: float
    """Of the form that knows only body parameters and tokens."""


def leave_one_shape_out(law: LossLaw) -> CrossValidation:
    """Fit without each shape in turn, and predict its losses."""
    runs = law.runs
    weights = (runs.shapes[None, :] != runs.shape_names[:, None]).astype(float)
    errors = []
    for names, start in ((FEATURES, law.fit), (SIMPLE_FEATURES, None)):
        first = best_fit(runs, names, np.ones(len(runs.loss))) if start is None else start
        starts = np.repeat(parameters_of(first), len(weights), axis=0)
        points = runs.features(names)
        fits, _ = fit_power_sums(points, runs.loss, weights, starts, delta=huber_delta(runs))
        left_out = (fits.predict(points) * (1 - weights)).sum(0)
        errors.append(relative_error(runs, left_out))
    return CrossValidation(*errors)


@dataclass(frozen=True)
class HeldOutSize:
    """The prediction for the largest size by a law that was fitted without it."""

    body: float
    """Its body parameters, the mean over its shapes."""
    runs: LadderRuns
    """Its runs."""
    predicted: Array
    """The predicted loss of each run."""
    error: float
    """Mean absolute relative error of the means over seeds."""
    largest_error: float
    simple_error: float
    """The error of the form that knows only body parameters and tokens."""
    predicted_depth: float
    """Of its depths, the one with the lowest predicted loss after the most tokens."""
    measured_depth: float
    """The one with the lowest mean loss."""


def hold_out_largest(runs: LadderRuns) -> HeldOutSize | None:
    """Predict the largest size from the smaller ones.

    Returns:
        None if the smaller sizes do not identify the law, or the largest has a single depth.
    """
    is_largest = runs.sizes == runs.size_names[-1]
    smaller, largest = runs.where(~is_largest), runs.where(is_largest)
    if len(np.unique(largest.depth)) < FEWEST_DEPTHS:
        return None
    if missing_for_law(smaller, fewest_sizes=FEWEST_SIZES):
        return None
    predicted = []
    for names in (FEATURES, SIMPLE_FEATURES):
        fit = best_fit(smaller, names, np.ones(len(smaller.loss)))
        predicted.append(fit.predict(largest.features(names))[0])
    errors = [cell_errors(largest, values) for values in predicted]
    longest = largest.has_most_tokens
    depths = [
        _best_of(largest.depth[longest], losses[longest]) for losses in (predicted[0], largest.loss)
    ]
    return HeldOutSize(
        float(largest.body.mean()), largest, predicted[0],
        float(errors[0].mean()), float(errors[0].max()), float(errors[1].mean()), *depths,
    )  # fmt: skip


def _best_of(depths: Array, losses: Array) -> float:
    """The depth with the lowest mean loss."""
    return float(min(np.unique(depths), key=lambda depth: losses[depths == depth].mean()))
