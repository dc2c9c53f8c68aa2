"""Forecast of the duration of a search, based on the measured time of its first steps."""

import logging
from collections.abc import Callable, Sequence
from time import perf_counter

from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.algorithms.shape_search import ShapeSearch, search_shape
from mobilellm.compression.algorithms.share_search import TRIALS_PER_MOVE, share_moves
from mobilellm.compression.allocation import PROPOSALS, division_groups, search_batches
from mobilellm.compression.apply import dense_weight
from mobilellm.compression.division import Division
from mobilellm.compression.recipe import Batch
from mobilellm.evaluation.validation import sum_losses
from mobilellm.models import MobileLLM
from mobilellm.units import duration_text

# Number of passes over the calibration text. For each group of matrices with the same input, a
# propagated fit runs the block of two models up to that input, which takes about as long as eight
# passes with the second moments.
PASSES = {"weights": 0.0, "outputs": 3.0, "propagated": 8.0, "reconstructed": 8.0}
# Steps that take less time than this are measured twice.
REPEATED_SECONDS = 5.0

logger = logging.getLogger(__name__)


def log_forecast(
    model: MobileLLM,
    calibration: Sequence[Batch],
    metric: Metric,
    division: Division,
    *,
    fit: str,
    allocation: str,
    shapes: ShapeSearch | None,
) -> None:
    """Log what will be searched and approximately how long it will take.

    The time of one evaluation of the loss and of the search for the first matrix's shape is
    measured. The time for a matrix is assumed to be proportional to rows x columns x min(rows,
    columns).

    Args:
        model: the model that will be compressed.
        calibration: batches of `input_ids` and `labels`.
        metric: error metric of the first matrix of the division.
        division: names of the matrices, and their budget.
        fit: how the matrices are fitted, as in `Factorization`.
        allocation: `searched` if the shares of the budget are searched for as well.
        shapes: settings of the search for shapes; None if shapes are not searched for.
    """
    work = {name: _work(model, name) for name in division.names}
    first = division.names[0]
    parameters = division.uniform()[first]
    once = _seconds(
        lambda: (
            search_shape(
                dense_weight(model, first), parameters, metric, shapes, pivoted=division.pivoted
            )
            if shapes is not None
            else division.shape_for(first, parameters)
        )
    )
    all_shapes = once / work[first] * sum(work.values())
    seconds, described = all_shapes, [f"{len(work)} shapes"] if shapes is not None else []
    if allocation == "searched":
        batches = search_batches(calibration, division)
        moves = share_moves(division_groups(model.config, division.names))
        trials = TRIALS_PER_MOVE * len(moves)
        losses = 2 * len(work) + PROPOSALS + 2
        loss = _seconds(lambda: sum_losses(model, batches))
        pass_seconds = loss * len(calibration) / len(batches)
        # Both the uniform division and the division that was found are fitted and compared.
        fitted = PASSES[fit] * pass_seconds + all_shapes / 2 + pass_seconds
        seconds = 2 * (all_shapes + fitted)
        whole = ["two fits of the whole model"]
        if PASSES[fit] > 1:
            seconds += (trials + 2) * ((PASSES[fit] + 1) * loss + all_shapes / 2)
            whole = [f"{trials + 2} fits to a part of the text", *whole]
        else:
            losses += trials
        seconds += losses * loss
        described = [f"{losses} losses", *described, *whole]
    logger.info("the search takes about %s: %s", duration_text(seconds), ", ".join(described))


def _work(model: MobileLLM, name: str) -> int:
    rows, columns = model.config.matrix_sizes[name]
    return rows * columns * min(rows, columns)


def _seconds(action: Callable[[], object]) -> float:
    """Time of `action`. A short action is measured twice, because a first call loads libraries."""
    shortest = float("inf")
    for _ in range(2):
        start = perf_counter()
        action()
        shortest = min(shortest, perf_counter() - start)
        if shortest > REPEATED_SECONDS:
            break
    return shortest
