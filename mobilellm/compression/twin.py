"""The low-rank twin: what the same number of parameters do as plain low rank."""

from dataclasses import replace
from typing import Any

from mobilellm.compression.algorithms.low_rank import rank_for
from mobilellm.compression.plan import LayerPlan, LayerwisePlan
from mobilellm.layers.shapes import FactorizedShape, low_rank_shape
from mobilellm.models import ModelConfig


def twin_shape(shape: FactorizedShape) -> FactorizedShape | None:
    """Low rank with at most the parameters of `shape`; None if they are too few for rank 1."""
    rank = rank_for(shape.parameters, *shape.shape)
    return FactorizedShape(parts=(low_rank_shape(*shape.shape, rank),)) if rank else None


def low_rank_plan(plan: LayerwisePlan) -> LayerwisePlan | None:
    """The same matrices by low rank, each with at most the parameters it has in `plan`.

    Returns:
        None if a matrix is not factorised or has too few parameters for rank 1.
    """
    layers = []
    for layer in plan.layers:
        if not isinstance(layer.shape, FactorizedShape):
            return None
        shape = twin_shape(layer.shape)
        if shape is None:
            return None
        layers.append(LayerPlan(name=layer.name, size=layer.size, shape=shape))
    return LayerwisePlan(layers=tuple(layers))


def twin_config(config: ModelConfig) -> ModelConfig | None:
    """`config` with every factorised matrix by low rank, at most as many parameters each.

    Returns:
        None if that is `config` itself, or if a matrix has too few parameters for rank 1.
    """
    shapes: dict[str, Any] = dict(config.layer_shapes)
    for name, shape in config.layer_shapes.items():
        if isinstance(shape, FactorizedShape):
            shapes[name] = twin_shape(shape)
            if shapes[name] is None:
                return None
    return (
        None if shapes == dict(config.layer_shapes) else replace(config, compressed_layers=shapes)
    )
