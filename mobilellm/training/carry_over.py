"""Convert a checkpoint of one model into a checkpoint of its compressed form.

The structure of a model follows from the configuration in its checkpoint. The transition from one
stage of compression to the next is therefore a function of the checkpoint alone, and each stage is
one `fit` that resumes from the converted checkpoint.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn

# Prefix of parameter names in a checkpoint: the model is an attribute of LanguageModelModule.
PREFIX = "model."


def carry_over(checkpoint: Mapping[str, Any], old: Any, new: Any) -> dict[str, Any]:
    """Convert a checkpoint of `old` into one of `new`, from which training continues.

    Weights and configuration are those of `new`. The optimizer keeps its state for every
    parameter that both models have with the same name and values; all other parameters start
    without state. Everything else (step, tokens, position in the data, random state, callbacks,
    loops) is copied.

    Args:
        checkpoint: saved by Lightning, with or without `optimizer_states`; it is not modified.
        old: LanguageModelModule with the weights of the checkpoint.
        new: LanguageModelModule with the compressed model and the same optimizer settings.
    """
    result = dict(checkpoint)
    result["model_config"] = new.model.config.to_dict()
    result["state_dict"] = {
        f"{PREFIX}{name}": tensor.detach().cpu() for name, tensor in new.model.state_dict().items()
    }
    if "optimizer_states" in checkpoint:
        [saved] = checkpoint["optimizer_states"]
        result["optimizer_states"] = [_carry_optimizer(saved, old, new)]
    return result


def _carry_optimizer(saved: Mapping[str, Any], old: Any, new: Any) -> dict[str, Any]:
    # Keys are numbers, or names if parameters are sharded; their order identifies the parameters.
    keys = chain.from_iterable(group["params"] for group in saved["param_groups"])
    names = _parameter_names(old.configure_optimizers(), old.model)
    kept = _untouched(old.model, new.model)
    state = {
        name: saved["state"][key]
        for key, name in zip(keys, names, strict=True)
        if name in kept and key in saved["state"]
    }
    optimizer = new.configure_optimizers()
    result = optimizer.state_dict()
    result["state"] = {
        number: state[name]
        for number, name in enumerate(_parameter_names(optimizer, new.model))
        if name in state
    }
    settings = {
        _kind(group): {key: value for key, value in group.items() if key != "params"}
        for group in saved["param_groups"]
    }
    result["param_groups"] = [
        group | settings.get(_kind(group), {}) for group in result["param_groups"]
    ]
    return result


def _parameter_names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """Names of the optimizer's parameters, in the order of its state dict."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = (group["params"] for group in optimizer.param_groups)
    return [names[id(parameter)] for parameter in chain.from_iterable(groups)]


def _untouched(old: nn.Module, new: nn.Module) -> set[str]:
    """Names of the parameters that both models have with equal values."""
    before = dict(old.named_parameters())
    return {
        name
        for name, parameter in new.named_parameters()
        if name in before and torch.equal(before[name].cpu(), parameter.cpu())
    }


def _kind(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """Key by which the parameter groups of two optimizers are matched."""
    return group.get("role"), group.get("algorithm"), tuple(group.get("scale", ()))
