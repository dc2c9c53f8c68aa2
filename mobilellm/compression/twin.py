"""The low-rank twin: what the same number of parameters do as plain low rank."""

from dataclasses import replace
from typing import Any

from mobilellm.compression.plan import LayerPlan, LayerwisePlan
from mobilellm.models import ModelConfig


def low_rank_plan(plan: LayerwisePlan) -> LayerwisePlan | None:
    """The same matrices by low rank, each with at most the parameters it has in `plan`.

    Returns:
        None if a matrix has too few parameters for rank 1.
    """
    layers = []
    for layer in plan.layers:
        shape = layer.shape.low_rank_twin(layer.size)
        if shape is None:
            return None
        layers.append(LayerPlan(name=layer.name, size=layer.size, shape=shape))
    return LayerwisePlan(layers=tuple(layers))


def twin_config(config: ModelConfig) -> ModelConfig | None:
    """`config` with every factorised matrix by low rank, at most as many parameters each.

    Returns:
        None if that is `config` itself, or if a matrix has too few parameters for rank 1.
    """
    shapes: dict[str, Any] = {
        name: shape.low_rank_twin(config.matrix_sizes[name])
        for name, shape in config.layer_shapes.items()
    }
    if None in shapes.values() or shapes == config.layer_shapes:
        return None
    return replace(config, compressed_layers=shapes)
