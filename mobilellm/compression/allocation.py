"""Allocation of a size budget to the matrices, by the sensitivity of the loss to each of them.

The sensitivity is measured twice per matrix: the increase of the calibration loss with this matrix
alone compressed, and the decrease when it is restored while all others are compressed. The increase
at other sizes is assumed to be proportional to the squared error, and a knapsack over the matrices
finds the sizes with the smallest sum of increases. This estimate relies entirely on the
measurements and often gives extreme sizes, so intermediate divisions between it and the uniform
division are proposed as well. Among all of them, the division with the lowest calibration loss,
measured with all matrices compressed, is chosen.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from mobilellm.compression.algorithms.knapsack import choose
from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.apply import dense_weight, with_layers
from mobilellm.compression.division import Division
from mobilellm.compression.error_curve import ErrorCurve
from mobilellm.compression.progress import log_progress
from mobilellm.compression.recipe import Batch
from mobilellm.evaluation.validation import sum_losses
from mobilellm.models import MobileLLM

# For each matrix, the losses of two models are measured on this many tokens, which suffices to rank
# them.
LOSS_TOKENS = 4_096
# Positions of intermediate divisions between the uniform one (0) and that of the knapsack (1).
STEPS = (0.25, 0.5, 0.75)
# Bounds of the second knapsack: smallest and largest multiple of a matrix's uniform share.
CAUTIOUS = (0.5, 2.0)

# The largest number of proposed divisions: three estimates of the sensitivity, and for each the two
# knapsacks and the intermediate divisions.
PROPOSALS = 3 * (2 + len(STEPS))

Budgets = dict[str, int]


def searched_budgets(
    model: MobileLLM,
    calibration: Sequence[Batch],
    metrics: Mapping[str, Metric],
    division: Division,
) -> Budgets:
    """Parameters for each matrix, with the lowest calibration loss among several divisions.

    Args:
        model: dense in the named matrices.
        calibration: batches of `input_ids` and `labels`.
        metrics: how the error of each matrix is measured, by name.
        division: the budget and the parts of the matrices. One part has num_terms=None.

    Returns:
        Number of parameters by name; for a matrix that stays dense, its number of entries.
    """
    batches = search_batches(calibration)
    curves = {
        name: ErrorCurve(name, dense_weight(model, name), metric, division)
        for name, metric in metrics.items()
    }
    uniform = division.uniform()

    def loss(budgets: Mapping[str, float]) -> float:
        layers = {name: curves[name].layer(kept) for name, kept in budgets.items()}
        replaced = {name: layer for name, layer in layers.items() if layer is not None}
        return sum_losses(with_layers(model, replaced), batches).loss

    dense = loss({})
    all_compressed = loss(uniform)
    alone = {
        n: loss({n: uniform[n]}) - dense
        for n in log_progress(curves, "losses with one matrix compressed")
    }
    restored = {
        n: all_compressed - loss({k: v for k, v in uniform.items() if k != n})
        for n in log_progress(curves, "losses with one matrix dense")
    }
    both = {n: (max(alone[n], 1e-6) * max(restored[n], 1e-6)) ** 0.5 for n in curves}
    proposed = list(proposals(curves, (alone, restored, both), uniform, division))
    tried = [(all_compressed, uniform)]
    tried += [
        (loss(budgets), budgets) for budgets in log_progress(proposed, "losses of whole divisions")
    ]
    return min(tried, key=lambda one: one[0])[1]


def search_batches(calibration: Sequence[Batch]) -> Sequence[Batch]:
    """The first batches, with at least `LOSS_TOKENS` tokens in total if there are so many."""
    counts = itertools.accumulate(batch["input_ids"].numel() for batch in calibration)
    return calibration[: sum(count < LOSS_TOKENS for count in counts) + 1]


def proposals(
    curves: Mapping[str, ErrorCurve],
    increases: Sequence[Mapping[str, float]],
    uniform: Budgets,
    division: Division,
) -> Iterator[Budgets]:
    """Propose divisions of the budget, without duplicates.

    Args:
        curves: error curve of each matrix, by name.
        increases: several estimates of the increase of the loss, by name of the compressed matrix.
        uniform: the division at which the increases were measured.
        division: the budget.
    """
    proposed = [uniform]
    for increase in increases:
        best = _least_sum(curves, increase, uniform, division, (0.0, float("inf")))
        between = [
            {n: int((1 - step) * uniform[n] + step * best[n]) for n in best} for step in STEPS
        ]
        for budgets in (best, _least_sum(curves, increase, uniform, division, CAUTIOUS), *between):
            if budgets not in proposed:
                proposed.append(budgets)
                yield budgets


def _least_sum(
    curves: Mapping[str, ErrorCurve],
    increases: Mapping[str, float],
    uniform: Budgets,
    division: Division,
    bounds: tuple[float, float],
) -> Budgets:
    """The division with the smallest sum of increases, assumed proportional to squared errors.

    Args:
        curves: error curve of each matrix, by name.
        increases: increase of the loss by each matrix at the division `uniform`.
        uniform: number of parameters by name.
        division: the budget.
        bounds: smallest and largest multiple of a matrix's uniform share.
    """
    sizes: list[list[int]] = []
    costs, damages = [], []
    for name, curve in curves.items():
        base = division.shape_for(name, uniform[name])
        # If compressing a matrix seems to lower the loss, it counts as nearly free, not as a gain.
        gradient = max(increases[name], 1e-6) / max(curve.squared_error(base), 1e-30)
        least, most = (bound * uniform[name] for bound in bounds)
        kept = [
            s for s in curve.choices(uniform[name]) if s == base or least <= s.parameters <= most
        ]
        sizes.append([shape.parameters for shape in kept])
        damages.append([gradient * curve.squared_error(shape) for shape in kept])
        if curve.size <= most:
            sizes[-1].append(curve.size)
            damages[-1].append(0.0)
        costs.append([division.parameter_costs[name] * parameters for parameters in sizes[-1]])
    chosen = choose(costs, damages, division.allowed_for_parameters)
    return {name: kept[index] for name, kept, index in zip(curves, sizes, chosen, strict=True)}
