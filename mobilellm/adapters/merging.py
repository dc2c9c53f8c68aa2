"""Adds adapters into the matrices that they belong to."""

from dataclasses import replace

import torch

from mobilellm.checkpoint import model_from_state
from mobilellm.layers import DENSE
from mobilellm.layers.adapted import AdaptedLinear, AdaptedShape, merged
from mobilellm.models import MobileLLM


@torch.no_grad()
def merge_adapters(model: MobileLLM, *, keep_packed: bool = True) -> MobileLLM:
    """A model of the same function in which adapters are part of dense matrices.

    Args:
        model: is not changed; other weights are shared with the result.
        keep_packed: whether matrices that are not dense (quantized, factorised or masked) keep
            their form and their adapter, whose dropout is then 0; otherwise they become dense too.
    """
    shapes, state = dict(model.config.layer_shapes), dict(model.state_dict())
    for name, shape in model.config.layer_shapes.items():
        if not isinstance(shape, AdaptedShape):
            continue
        if keep_packed and shape.base is not DENSE:
            shapes[name] = replace(shape, adapted=replace(shape.adapted, dropout=0.0))
            continue
        for key in [key for key in state if key.startswith(f"{name}.")]:
            del state[key]
        layer = model.get_submodule(name)
        if isinstance(layer, AdaptedLinear):
            dense = merged(layer).state_dict()
            state |= {f"{name}.{key}": tensor for key, tensor in dense.items()}
        del shapes[name]
    config = replace(model.config, compressed_layers=shapes)
    result = model_from_state(config, state, "the merged adapters")
    return result.train(model.training)
