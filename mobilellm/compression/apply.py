"""Putting compressed layers into a model: its configuration and its weights change together."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from mobilellm.checkpoint import model_from_state
from mobilellm.layers import DENSE, materialize
from mobilellm.models import MobileLLM


def with_layers(model: MobileLLM, layers: Mapping[str, nn.Module]) -> MobileLLM:
    """A copy of `model` in which the named matrices are stored as the given layers.

    Every block is stored once and a tied table serves both ends, so that one replacement changes
    all uses. The structure of the result follows from its own configuration.

    Args:
        model: left as it is.
        layers: layers of `mobilellm.layers`, or `nn.Linear` (weight only) to make a matrix dense
            again, by names of `ModelConfig.matrix_sizes`.

    Raises:
        ValueError: an unknown name, or a layer of another size.
    """
    shapes = dict(model.config.compressed_layers)
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for name, layer in layers.items():
        for key in [key for key in state if key.startswith(f"{name}.")]:
            del state[key]
        for key, tensor in layer.state_dict().items():
            state[f"{name}.{key}"] = tensor.detach().clone()
        shape = getattr(layer, "shape", DENSE)  # `nn.Linear` has none
        if shape is DENSE:
            shapes.pop(name, None)
        else:
            shapes[name] = shape
    config = replace(model.config, compressed_layers=shapes)  # pyright: ignore[reportArgumentType]
    compressed = model_from_state(config, state, "the compressed layers")
    return compressed.train(model.training)


def dense_weight(model: MobileLLM, name: str) -> torch.Tensor:
    """The dense matrix (out, in) of that name, as it is multiplied; no gradient."""
    return materialize(model.get_submodule(name)).detach()


def working_copy(model: MobileLLM) -> MobileLLM:
    """A model of its own with the same weights and no gradients: to measure while compressing."""
    return with_layers(model, {}).eval().requires_grad_(False)
