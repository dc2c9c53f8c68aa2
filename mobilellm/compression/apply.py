"""Replacement of layers in a model, which changes its configuration and its weights together."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from mobilellm.checkpoint import model_from_state
from mobilellm.layers import DENSE, materialize
from mobilellm.models import MobileLLM


def with_layers(
    model: MobileLLM, layers: Mapping[str, nn.Module], *, copy: bool = True
) -> MobileLLM:
    """A copy of `model` in which the named matrices are stored as the given layers.

    A replacement affects all applications of a shared block, and a tied embedding both as embedding
    and as head.

    Args:
        model: is not changed.
        layers: layers of `mobilellm.layers`, or `nn.Linear` without bias for a dense matrix, by
            their names in `ModelConfig.matrix_sizes`.
        copy: whether all tensors are copied; otherwise the result shares them with `model` and
            `layers`.

    Raises:
        ValueError: a name is unknown, or a layer has another size.
    """
    shapes = dict(model.config.compressed_layers)
    state = {name: _detached(tensor, copy) for name, tensor in model.state_dict().items()}
    for name, layer in layers.items():
        for key in [key for key in state if key.startswith(f"{name}.")]:
            del state[key]
        for key, tensor in layer.state_dict().items():
            state[f"{name}.{key}"] = _detached(tensor, copy)
        shape = getattr(layer, "shape", DENSE)  # `nn.Linear` has no `shape`.
        if shape is DENSE:
            shapes.pop(name, None)
        else:
            shapes[name] = shape
    config = replace(model.config, compressed_layers=shapes)  # pyright: ignore[reportArgumentType]
    compressed = model_from_state(config, state, "the compressed layers")
    return compressed.train(model.training)


def _detached(tensor: torch.Tensor, copy: bool) -> torch.Tensor:
    return tensor.detach().clone() if copy else tensor.detach()


def dense_weight(model: MobileLLM, name: str) -> torch.Tensor:
    """The dense weight (out, in) of the named matrix, without gradient."""
    return materialize(model.get_submodule(name)).detach()


def frozen_view(model: MobileLLM) -> MobileLLM:
    """The model in evaluation mode and without gradients; it shares its weights with `model`."""
    return with_layers(model, {}, copy=False).eval().requires_grad_(False)


def working_copy(model: MobileLLM) -> MobileLLM:
    """A copy of the model in evaluation mode and without gradients."""
    return with_layers(model, {}).eval().requires_grad_(False)
