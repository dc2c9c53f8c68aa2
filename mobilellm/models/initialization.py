"""Initialisation of weights.

All matrices, including the token embedding, are drawn from a normal distribution with mean 0 and
standard deviation `std`, and all norm weights are set to 1. The default std = 0.02, independent of
width and depth, is that of Meta's MobileLLM code. `std="hidden"` means 1 / sqrt(hidden_size).
`residual_scaling` divides the standard deviation of the two projections that write to the residual
stream (`o_proj`, `down_proj`) by sqrt(2 × num_layers), so that the variance of the stream does not
grow with depth (Radford et al. 2019, GPT-2, section 2.3).

A parametrisation takes these deviations from a base shape instead, and scales them to the shape of
the model (`InitialScale`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import nn

from mobilellm.models.config import ModelConfig
from mobilellm.ranges import Range, check_value

STD = Range(above=0, cap=10)


@dataclass(frozen=True, kw_only=True)
class InitialScale:
    """How the deviations of initial weights follow from those of a base shape."""

    width: int
    """In place of hidden_size for `std="hidden"`."""
    depth: int
    """In place of num_layers for `residual_scaling`."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """Factor of the deviation by name of a matrix (`ModelConfig.matrix_sizes`); others: 1."""


def initialize_(
    model: nn.Module,
    *,
    std: float | str = 0.02,
    residual_scaling: bool = False,
    seed: int | None = None,
    scale: InitialScale | None = None,
) -> None:
    """Initialise all weights of a model in place.

    Args:
        model: a `MobileLLM`.
        std: standard deviation of all matrices, or `"hidden"` for 1 / sqrt(hidden_size).
        residual_scaling: whether to divide the standard deviation of `o_proj` and `down_proj` by
            sqrt(2 × num_layers).
        seed: seed of a separate generator, which gives the same weights on every device and does
            not change the global generator; None: use the global generator.
        scale: scale of a parametrisation; None: the shape of the model decides.

    Raises:
        ValueError: `std` is neither a positive number nor `"hidden"`.
    """
    config = cast("ModelConfig", model.config)
    shapes = config.layer_shapes
    check_initialization(std=std, residual_scaling=residual_scaling)
    scale = scale or InitialScale(width=config.hidden_size, depth=config.num_layers)
    deviation_of_all = scale.width**-0.5 if isinstance(std, str) else std
    # Generators of different devices give different numbers for the same seed, so use the CPU's.
    generator = None if seed is None else torch.Generator("cpu").manual_seed(seed)
    for module in model.modules():
        if hasattr(module, "reset_buffers_"):
            module.reset_buffers_()  # pyright: ignore[reportCallIssue]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                nn.init.ones_(parameter)
                continue
            writes_to_stream = ".o_proj." in name or ".down_proj." in name
            by_depth = (2 * scale.depth) ** -0.5 if residual_scaling and writes_to_stream else 1
            matrix = config.matrix_of(name)
            deviation = deviation_of_all * by_depth * scale.factors.get(matrix, 1)
            if matrix in shapes:
                own_name = name.removeprefix(f"{matrix}.")
                deviation = shapes[matrix].parameter_std(own_name, deviation)
            if generator is None or parameter.is_meta:
                parameter.normal_(0.0, deviation)
            else:
                drawn = torch.empty(parameter.shape, device="cpu")
                parameter.copy_(drawn.normal_(0.0, deviation, generator=generator))


def check_initialization(*, std: float | str, residual_scaling: bool) -> None:
    """Check the options of `initialize_`.

    Raises:
        ValueError: as `initialize_`.
    """
    check_value("std", std, float | Literal["hidden"], STD)
    check_value("residual_scaling", residual_scaling, bool)
