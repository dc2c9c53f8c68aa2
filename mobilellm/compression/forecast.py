"""How long a search will take, from what its first steps take on this machine."""

import logging
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.algorithms.shape_search import ShapeSearch, search_shape
from mobilellm.compression.apply import dense_weight
from mobilellm.compression.division import Division
from mobilellm.compression.recipe import Batch
from mobilellm.compression.sensitivity import PROPOSALS, search_batches
from mobilellm.evaluation.validation import sum_losses
from mobilellm.models import MobileLLM
from mobilellm.units import duration_text

# A fit to outputs looks at the calibration text once; a propagated one runs each block for each
# input of its matrices, in two models: about so many times the cost of one look.
PASSES = {"weights": 0.0, "outputs": 1.0, "propagated": 12.0}
# What takes less than this is timed a second time.
REPEATED_SECONDS = 5.0

logger = logging.getLogger(__name__)


def tell_forecast(
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
    """Log what is going to be searched and about how long it takes.

    One loss and the shape of the first matrix are timed; other matrices are taken to cost in
    proportion to rows x columns x the smaller of both.

    Args:
        model: that is going to be compressed.
        calibration: text for it.
        metrics: of its matrices.
        division: names of the matrices and budget.
        fit: how they are fitted.
        allocation: `searched` where the shares are searched for as well.
        shapes: the search for shapes; None: they are given.
        pass_seconds: what looking at the calibration text once took.
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
    seconds, told = all_shapes, [f"{len(work)} shapes"] if shapes is not None else []
    if allocation == "searched":
        batches = search_batches(calibration)
        losses = 2 * len(work) + PROPOSALS + 2
        loss = _seconds(lambda: sum_losses(model, batches))
        # Both the uniform division and the one found are fitted, and the better one is taken.
        fitted = PASSES[fit] * pass_seconds + all_shapes / 2 + pass_seconds
        seconds = losses * loss + 2 * (all_shapes + fitted)
        told = [f"{losses} losses", *told, "two fits of the whole model"]
    logger.info("the search takes about %s: %s", duration_text(seconds), ", ".join(told))


def _work(model: MobileLLM, name: str) -> int:
    rows, columns = model.config.matrix_sizes[name]
    return rows * columns * min(rows, columns)


def _seconds(action: Callable[[], object]) -> float:
    """What `action` takes; once more where that is quick, since a first call loads libraries."""
    taken = float("inf")
    for _ in range(2):
        start = perf_counter()
        action()
        taken = min(taken, perf_counter() - start)
        if taken > REPEATED_SECONDS:
            break
    return taken
