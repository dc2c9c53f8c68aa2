"""Forecast of the time that a search takes, from timing its first steps on this machine."""

import logging
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.algorithms.shape_search import ShapeSearch, search_shape
from mobilellm.compression.allocation import PROPOSALS, search_batches
from mobilellm.compression.apply import dense_weight
from mobilellm.compression.division import Division
from mobilellm.compression.recipe import Batch
from mobilellm.evaluation.validation import sum_losses
from mobilellm.models import MobileLLM
from mobilellm.units import duration_text

# Passes over the calibration text. A fit to outputs needs one; a propagated fit runs each block of
# two models for each input of its matrices, which costs about twelve.
PASSES = {"weights": 0.0, "outputs": 1.0, "propagated": 12.0}
# Steps that take less time than this are timed twice.
REPEATED_SECONDS = 5.0

logger = logging.getLogger(__name__)


def log_forecast(
    model: MobileLLM,
    calibration: Sequence[Batch],
    metrics: Mapping[str, Metric],
    division: Division,
    *,
    fit: str,
    allocation: str,
    shapes: ShapeSearch | None,
    pass_seconds: float,
) -> None:
    """Log what will be searched and roughly how long that takes.

    One evaluation of the loss and the search for the first matrix's shape are timed. The time of
    other matrices is assumed to be proportional to rows x columns x the smaller of the two.

    Args:
        model: the model that will be compressed.
        calibration: batches of `input_ids` and `labels`.
        metrics: error metrics of its matrices, by name.
        division: names of the matrices, and their budget.
        fit: how the matrices are fitted, as in `Factorization`.
        allocation: `searched` if the shares of the budget are searched for as well.
        shapes: settings of the search for shapes; None: the shapes are given.
        pass_seconds: time that one pass over the calibration text took.
    """
    work = {name: _work(model, name) for name in division.names}
    first = division.names[0]
    parameters = division.uniform()[first]
    once = _seconds(
        lambda: (
            search_shape(dense_weight(model, first), parameters, metrics[first], shapes)
            if shapes is not None
            else division.written(first, parameters)
        )
    )
    all_shapes = once / work[first] * sum(work.values())
    seconds, described = all_shapes, [f"{len(work)} shapes"] if shapes is not None else []
    if allocation == "searched":
        batches = search_batches(calibration)
        losses = 2 * len(work) + PROPOSALS + 2
        loss = _seconds(lambda: sum_losses(model, batches))
        # Both the uniform division and the one found are fitted, and the better one is taken.
        fitted = PASSES[fit] * pass_seconds + all_shapes / 2 + pass_seconds
        seconds = losses * loss + 2 * (all_shapes + fitted)
        described = [f"{losses} losses", *described, "two fits of the whole model"]
    logger.info("the search takes about %s: %s", duration_text(seconds), ", ".join(described))


def _work(model: MobileLLM, name: str) -> int:
    rows, columns = model.config.matrix_sizes[name]
    return rows * columns * min(rows, columns)


def _seconds(action: Callable[[], object]) -> float:
    """Time of `action`; the second call is taken if it is short, as a first one loads libraries."""
    taken = float("inf")
    for _ in range(2):
        start = perf_counter()
        action()
        taken = min(taken, perf_counter() - start)
        if taken > REPEATED_SECONDS:
            break
    return taken
