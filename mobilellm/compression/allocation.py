"""Allocation of a size budget to the matrices, by the sensitivity of the loss to each of them.

The sensitivity is measured twice per matrix: the increase of the calibration loss with this matrix
alone compressed, and the decrease when it is restored while all others are compressed. The increase
at other sizes is assumed to be proportional to the squared error, and a knapsack over the matrices
finds the sizes with the smallest sum of increases. The estimate holds only near the sizes at which
it was measured, so sizes are bounded, and divisions between that of the knapsack and the uniform
one are proposed as well. From the proposal with the lowest calibration loss, measured with all
matrices compressed, the shares of groups of matrices are then moved by direct search: attention
against feed-forward layers, each kind of projection, and each quarter of the depth. Each of these
few numbers is chosen by the loss itself.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from mobilellm.compression.algorithms.knapsack import choose
from mobilellm.compression.algorithms.share_search import Bounds, search_shares, share_moves
from mobilellm.compression.apply import dense_weight, with_layers
from mobilellm.compression.division import Division
from mobilellm.compression.error_curve import LEAST, MOST, ErrorCurve
from mobilellm.compression.layer_fit import LayerFit
from mobilellm.compression.progress import log_progress
from mobilellm.compression.recipe import Batch
from mobilellm.evaluation.validation import sum_losses
from mobilellm.layers.factorized import FactorizedShape
from mobilellm.models import MobileLLM, ModelConfig

# For each matrix, the losses of two models are measured on this many tokens, which suffices to rank
# them.
LOSS_TOKENS = 4_096
# Positions of intermediate divisions between the uniform one (0) and that of the knapsack (1).
STEPS = (0.25, 0.5, 0.75)
# Number of groups of neighbouring blocks whose shares are searched for.
DEPTHS = 4

# The largest number of proposed divisions: three estimates of the sensitivity, and for each the
# knapsack and the intermediate divisions.
PROPOSALS = 3 * (1 + len(STEPS))

Budgets = dict[str, int]


def searched_budgets(
    model: MobileLLM,
    calibration: Sequence[Batch],
    division: Division,
    layer_fit: LayerFit,
) -> Budgets:
    """Parameters for each matrix, with the lowest calibration loss among several divisions.

    Args:
        model: dense in the named matrices.
        calibration: batches of `input_ids` and `labels`.
        division: the budget and the parts of the matrices. One part has num_terms=None.
        layer_fit: how the layers will be fitted.

    Returns:
        Number of parameters by name; for a matrix that stays dense, its number of entries.
    """
    batches = search_batches(calibration, division)
    curves = _curves(model, calibration, division, layer_fit)
    uniform = division.uniform()

    def loss(budgets: Mapping[str, float]) -> float:
        layers = {name: curves[name].layer(kept) for name, kept in budgets.items()}
        replaced = {name: layer for name, layer in layers.items() if layer is not None}
        return sum_losses(with_layers(model, replaced, copy=False), batches).loss

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
    found = min(tried, key=lambda one: one[0])

    fitted: dict[tuple[tuple[str, FactorizedShape], ...], float] = {}

    def loss_of_fit(budgets: Mapping[str, float]) -> float:
        """The loss of layers that are fitted to their inputs in the compressed model."""
        shapes = {
            name: division.shape_for(name, kept)
            for name, kept in budgets.items()
            if kept < curves[name].size
        }
        key = tuple(shapes.items())
        if key not in fitted:  # Different budgets can have the same ranks.
            layers, _ = layer_fit.layers(model, shapes, batches, quietly=True)
            fitted[key] = sum_losses(with_layers(model, layers, copy=False), batches).loss
        return fitted[key]

    if layer_fit.is_propagated:
        # Errors that later layers correct count less, so other divisions are the best ones.
        loss = loss_of_fit
        starts = [uniform] if found[1] == uniform else [uniform, found[1]]
        found = min(((loss(one), one) for one in starts), key=lambda one: one[0])
    moves = share_moves(division_groups(model.config, list(curves)))
    return search_shares(
        found[1],
        log_progress(moves, "shares of groups moved"),
        share_bounds(curves, uniform, division),
        loss,
        found[0],
    )


def _curves(
    model: MobileLLM, calibration: Sequence[Batch], division: Division, layer_fit: LayerFit
) -> dict[str, ErrorCurve]:
    """The error curve of each matrix; the second moment of one input at a time is in memory."""
    metrics = (
        item
        for group in layer_fit.metrics(model, calibration, division.names)
        for item in group.items()
    )
    found = {
        name: ErrorCurve(name, dense_weight(model, name), metric, division)
        for name, metric in log_progress(metrics, "matrices measured", len(division.names))
    }
    return {name: found[name] for name in division.names}


def division_groups(config: ModelConfig, names: Sequence[str]) -> list[frozenset[str]]:
    """Groups of the named matrices whose shares of the budget are searched for.

    They are attention and feed-forward layers, each kind of projection, each table, and each
    quarter of the blocks by depth. A group with all of the matrices is left out.
    """
    groups: dict[tuple[str, object], set[str]] = {}
    depth = {block: place for place, block in enumerate(dict.fromkeys(config.layer_order))}
    for name in names:
        if not name.startswith("blocks."):
            groups.setdefault(("table", name), set()).add(name)
            continue
        _, block, layer, kind = name.split(".")
        quarter = depth[int(block)] * DEPTHS // len(depth)
        for key in (("layer", layer), ("kind", kind), ("depth", quarter)):
            groups.setdefault(key, set()).add(name)
    distinct = dict.fromkeys(frozenset(group) for group in groups.values())
    return [group for group in distinct if len(group) < len(names)]


def share_bounds(
    curves: Mapping[str, ErrorCurve], uniform: Mapping[str, int], division: Division
) -> Bounds:
    """Bounds of the parameters of each matrix, and the budget."""
    smallest = {name: curve.choices(uniform[name])[0] for name, curve in curves.items()}
    return Bounds(
        least={n: max(LEAST * uniform[n], min(smallest[n].parameters, uniform[n])) for n in curves},
        most={name: min(MOST * uniform[name], curve.size) for name, curve in curves.items()},
        costs=division.parameter_costs,
        total=division.allowed_for_parameters,
    )


def search_batches(calibration: Sequence[Batch], division: Division) -> Sequence[Batch]:
    """The first batches with enough tokens to rank divisions, or all if there are fewer.

    They are `LOSS_TOKENS`, but at least twice as many as a matrix has inputs, so that layers can be
    fitted to them.
    """
    inputs = max(division.config.matrix_sizes[name][1] for name in division.names)
    counts = itertools.accumulate(batch["input_ids"].numel() for batch in calibration)
    return calibration[: sum(count < max(LOSS_TOKENS, 2 * inputs) for count in counts) + 1]


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
        best = _least_sum(curves, increase, uniform, division)
        between = [
            {n: int((1 - step) * uniform[n] + step * best[n]) for n in best} for step in STEPS
        ]
        for budgets in (best, *between):
            if budgets not in proposed:
                proposed.append(budgets)
                yield budgets


def _least_sum(
    curves: Mapping[str, ErrorCurve],
    increases: Mapping[str, float],
    uniform: Budgets,
    division: Division,
) -> Budgets:
    """The division with the smallest sum of increases, assumed proportional to squared errors.

    Args:
        curves: error curve of each matrix, by name.
        increases: increase of the loss by each matrix at the division `uniform`.
        uniform: number of parameters by name.
        division: the budget.
    """
    sizes: list[list[int]] = []
    costs, damages = [], []
    for name, curve in curves.items():
        base = division.shape_for(name, uniform[name])
        # If compressing a matrix seems to lower the loss, it counts as nearly free, not as a gain.
        gradient = max(increases[name], 1e-6) / max(curve.squared_error(base), 1e-30)
        least, most = LEAST * uniform[name], MOST * uniform[name]
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
