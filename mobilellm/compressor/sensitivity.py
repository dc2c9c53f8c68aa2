"""What the loss says of each matrix, and the budgets that follow from it.

The increase of the calibration loss is measured where one matrix is compressed alone, and where
all are and this one is restored: compressed layers make each other's errors better or worse. At
other ranks the increase is taken to be proportional to the squared error, and a knapsack over the
matrices finds the ranks with the least sum. Of the budgets found so, and the uniform ones, those
are taken whose calibration loss, measured with all matrices compressed, is lowest.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mobilellm.compression.knapsack import choose
from mobilellm.compression.layers import FactorizedLinear
from mobilellm.compression.low_rank import rank_for
from mobilellm.compression.metric import Metric
from mobilellm.compression.shapes import FactorizedShape, low_rank_shape
from mobilellm.compression.sums import SumFit
from mobilellm.compressor.apply import dense_weight, with_layers
from mobilellm.compressor.progress import told
from mobilellm.compressor.recipe import Batch
from mobilellm.evaluation.validation import sum_losses
from mobilellm.models import MobileLLM

# Shares of a matrix's parameters among which is chosen; 1: it stays dense.
SHARES = tuple(step / 20 for step in range(1, 21))
# Two losses are measured for each matrix; so many tokens rank them well enough.
LOSS_TOKENS = 4_096


@dataclass(frozen=True)
class _Matrix:
    """What is known of one matrix while budgets are searched for."""

    weight: Tensor
    metric: Metric
    errors: Tensor
    """Squared error of the best matrix of each rank from 0 on."""

    def low_rank(self, parameters: float) -> FactorizedLinear | None:
        """The best low-rank layer with so many parameters; None where it is better left dense."""
        rows, columns = self.weight.shape
        if parameters >= rows * columns:
            return None
        rank = max(1, rank_for(parameters, rows, columns))
        shape = FactorizedShape(parts=(low_rank_shape(rows, columns, rank),))
        return SumFit(self.weight, shape, self.metric).layer(self.weight.dtype)


def searched_budgets(
    model: MobileLLM,
    calibration: Sequence[Batch],
    metrics: Mapping[str, Metric],
    *,
    allowed: float,
    weights: Mapping[str, float],
) -> dict[str, int]:
    """Parameters for each matrix, with the lowest calibration loss among several divisions.

    Args:
        model: dense in the named matrices.
        calibration: batches of `input_ids` and `labels`.
        metrics: how the error of each matrix is measured, by name.
        allowed: parameters times weights, in all.
        weights: what a parameter of each matrix costs.

    Returns:
        Parameters by name; a matrix that stays dense has all of its own.
    """
    counts = itertools.accumulate(batch["input_ids"].numel() for batch in calibration)
    enough = sum(count < LOSS_TOKENS for count in counts) + 1
    matrices = {}
    for name, metric in metrics.items():
        weight = dense_weight(model, name)
        matrices[name] = _Matrix(weight, metric, _errors_by_rank(weight, metric))
    sizes = {name: matrix.weight.numel() for name, matrix in matrices.items()}
    share = allowed / sum(sizes[name] * weights[name] for name in sizes)
    uniform = {name: int(share * size) for name, size in sizes.items()}

    def loss(budgets: Mapping[str, float]) -> float:
        layers = {name: matrices[name].low_rank(kept) for name, kept in budgets.items()}
        replaced = {name: layer for name, layer in layers.items() if layer is not None}
        return sum_losses(with_layers(model, replaced), calibration[:enough]).loss

    dense = loss({})
    all_compressed = loss(uniform)
    alone = {
        n: loss({n: uniform[n]}) - dense for n in told(sizes, "losses with one matrix compressed")
    }
    restored = {
        n: all_compressed - loss({k: v for k, v in uniform.items() if k != n})
        for n in told(sizes, "losses with one matrix dense")
    }
    both = {n: (max(alone[n], 1e-6) * max(restored[n], 1e-6)) ** 0.5 for n in sizes}
    tried = [(all_compressed, uniform)]
    for increases in (alone, restored, both):
        budgets = _best_sum(matrices, increases, uniform, allowed, weights)
        tried.append((loss(budgets), budgets))
    return min(tried, key=lambda one: one[0])[1]


def _best_sum(
    matrices: Mapping[str, _Matrix],
    increases: Mapping[str, float],
    uniform: Mapping[str, int],
    allowed: float,
    weights: Mapping[str, float],
) -> dict[str, int]:
    """The division with the least sum of increases, each taken as proportional to the error."""
    costs, damages = [], []
    for name, matrix in matrices.items():
        rows, columns = matrix.weight.shape
        at = max(1, rank_for(uniform[name], rows, columns))
        # A matrix whose loss seems to fall is taken as nearly free, not as a gain.
        slope = max(increases[name], 1e-6) / max(float(matrix.errors[at]), 1e-30)
        ranks = [rank_for(part * rows * columns, rows, columns) for part in SHARES[:-1]]
        ranks = sorted({rank for rank in ranks if rank} | {at})
        costs.append([weights[name] * rank * (rows + columns) for rank in ranks])
        damages.append([slope * float(matrix.errors[rank]) for rank in ranks])
        costs[-1].append(weights[name] * rows * columns)
        damages[-1].append(0.0)
    chosen = choose(costs, damages, max(allowed, sum(min(item) for item in costs)))
    return {
        name: int(costs[item][index] / weights[name])
        for item, (name, index) in enumerate(zip(matrices, chosen, strict=True))
    }


def _errors_by_rank(weight: Tensor, metric: Metric) -> Tensor:
    """Squared error of the best matrix of each rank from 0 on."""
    squares = torch.linalg.svdvals(metric.whiten(weight)).square()
    tails = squares.flip(0).cumsum(0).flip(0)
    return torch.cat((tails, tails.new_zeros(1)))
