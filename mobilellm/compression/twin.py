"""The low-rank twin: what the same parameters do as plain low rank. Every report has it beside."""

from dataclasses import replace
from typing import Any

from mobilellm.compression.algorithms.low_rank import rank_for
from mobilellm.compression.factorization import Factorization
from mobilellm.compression.plan import LayerPlan, Plan
from mobilellm.layers.shapes import FactorizedShape, low_rank_shape


def twin_shape(shape: FactorizedShape) -> FactorizedShape | None:
    """Low rank with at most the parameters of `shape`; None where they are too few for rank 1."""
    rank = rank_for(shape.parameters, *shape.shape)
    return FactorizedShape(parts=(low_rank_shape(*shape.shape, rank),)) if rank else None


def low_rank_twin(recipe: Any, plan: Any) -> tuple[Factorization, Plan] | None:
    """The same matrices by low rank, each with at most the parameters it has in `plan`.

    Args:
        recipe: how `plan` was made; the twin is fitted in the same way.
        plan: of a factorisation.

    Returns:
        Recipe and plan of the twin; None where there is none: for masks and structured pruning,
        where `plan` is low rank itself, and for matrices too small for rank 1.
    """
    if not isinstance(recipe, Factorization) or not isinstance(plan, Plan):
        return None
    layers = []
    for layer in plan.layers:
        if not isinstance(layer.shape, FactorizedShape):
            return None
        shape = twin_shape(layer.shape)
        if shape is None:
            return None
        layers.append(LayerPlan(name=layer.name, size=layer.size, shape=shape))
    twin = Plan(layers=tuple(layers))
    if twin.compressed_layers == plan.compressed_layers:
        return None
    return replace(recipe, parts=(), permutations="none", allocation="uniform"), twin
