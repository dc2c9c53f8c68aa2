"""What the loss says of each matrix, and the budgets that follow from it.

Each matrix is compressed alone, to a uniform share and by low rank, and the increase of the
calibration loss is measured. At other ranks the increase is taken to be proportional to the
squared error, and a knapsack over the matrices finds the ranks with the least sum.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mobilellm.compression.knapsack import choose
from mobilellm.compression.layers import FactorizedLinear
from mobilellm.compression.low_rank import rank_for
from mobilellm.compression.metric import Metric
from mobilellm.compression.shapes import FactorizedShape, low_rank_shape
from mobilellm.compression.sums import SumFit
from mobilellm.compressor.apply import dense_weight, with_layers
from mobilellm.compressor.recipe import Batch
from mobilellm.evaluation.validation import sum_losses
from mobilellm.models import MobileLLM

# Shares of a matrix's parameters among which is chosen; 1: it stays dense.
SHARES = tuple(step / 20 for step in range(1, 21))


def searched_budgets(
    model: MobileLLM,
    calibration: Sequence[Batch],
    names: Sequence[str],
    metric_of: Callable[[str], Metric],
    *,
    allowed: float,
    weights: Mapping[str, float],
) -> dict[str, int]:
    """Parameters for each matrix, so that the sum of the expected loss increases is least.

    Args:
        model: dense in the named matrices.
        calibration: batches of `input_ids` and `labels`.
        names: the matrices.
        metric_of: how the error of each is measured.
        allowed: parameters times weights, in all.
        weights: what a parameter of each matrix costs.

    Returns:
        Parameters by name; a matrix that stays dense has all of its own.
    """
    sizes = {name: model.config.matrix_sizes[name] for name in names}
    share = allowed / sum(r * c * weights[name] for name, (r, c) in sizes.items())
    base = sum_losses(model, calibration).loss
    costs, damages = [], []
    for name in names:
        rows, columns = sizes[name]
        weight, metric = dense_weight(model, name), metric_of(name)
        errors = _errors_by_rank(weight, metric)
        rank = max(1, rank_for(share * rows * columns, rows, columns))
        increase = sum_losses(_low_rank_alone(model, name, weight, metric, rank), calibration).loss
        # A matrix whose loss seems to fall is taken as nearly free, not as a gain.
        slope = max(increase - base, 1e-6) / max(float(errors[rank]), 1e-30)
        ranks = [rank_for(part * rows * columns, rows, columns) for part in SHARES[:-1]]
        costs.append([weights[name] * r * (rows + columns) for r in ranks])
        damages.append([slope * float(errors[r]) if r else float("inf") for r in ranks])
        costs[-1].append(weights[name] * rows * columns)
        damages[-1].append(0.0)
    chosen = choose(costs, damages, allowed)
    return {
        name: int(costs[item][index] / weights[name])
        for item, (name, index) in enumerate(zip(names, chosen, strict=True))
    }


def _errors_by_rank(weight: Tensor, metric: Metric) -> Tensor:
    """Squared error of the best matrix of each rank from 0 on."""
    squares = torch.linalg.svdvals(metric.whiten(weight)).square()
    tails = squares.flip(0).cumsum(0).flip(0)
    return torch.cat((tails, tails.new_zeros(1)))


def _low_rank_alone(
    model: MobileLLM, name: str, weight: Tensor, metric: Metric, rank: int
) -> MobileLLM:
    shape = FactorizedShape(parts=(low_rank_shape(*weight.shape, rank),))
    layer: FactorizedLinear = SumFit(weight, shape, metric).layer(weight.dtype)
    return with_layers(model, {name: layer})
