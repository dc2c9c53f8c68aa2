"""Low-rank twins: models to compare with, in which factorised matrices have low rank.

Each matrix of the twin has at most as many parameters as that of the original.
"""

from dataclasses import replace
from typing import Any

from mobilellm.compression.plan import LayerPlan, LayerwisePlan
from mobilellm.models import ModelConfig


def low_rank_plan(plan: LayerwisePlan) -> LayerwisePlan | None:
    """Create the plan of the low-rank twin.

    Returns:
        The plan; None if a matrix has too few parameters for rank 1.
    """
    layers = []
    for layer in plan.layers:
        shape = layer.shape.low_rank_twin(layer.size)
        if shape is None:
            return None
        layers.append(LayerPlan(name=layer.name, size=layer.size, shape=shape))
    return LayerwisePlan(layers=tuple(layers))


def twin_config(config: ModelConfig) -> ModelConfig | None:
    """Create the configuration of the low-rank twin.

    Returns:
        The configuration; None if it equals `config`, or if a matrix has too few parameters for
        rank 1.
    """
    shapes: dict[str, Any] = {
        name: shape.low_rank_twin(config.matrix_sizes[name])
        for name, shape in config.layer_shapes.items()
    }
    if None in shapes.values() or shapes == config.layer_shapes:
        return None
    return replace(config, compressed_layers=shapes)
