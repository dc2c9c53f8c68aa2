"""Matrix products of the blocks in 8-bit floating point, by torchao.

Source: Micikevicius et al. 2022, FP8 formats for deep learning, arXiv:2209.05433: weights and
activations as e4m3, gradients as e5m2, here with one scale per tensor, computed at each use.
"""

from typing import Any

import torch
from torch import nn

# The units of matrix products take widths that are multiples of this.
WIDTH_MULTIPLE = 16
# The first NVIDIA architecture (Ada) with such products.
LEAST_CAPABILITY = (8, 9)


def use_float8_(model: nn.Module, *, emulate: bool = False) -> int:
    """Let the linear layers of the blocks multiply in float8, forward and backward.

    The weights and their names stay as they are; each layer rounds its operands at every use. The
    head is left in the precision of training, because its rounding costs more than it saves.

    Args:
        model: model with `blocks`, changed in place.
        emulate: round as float8 but multiply in float32, which runs on every device.

    Returns:
        The number of layers.

    Raises:
        ModuleNotFoundError: torchao is not installed.
        ValueError: the GPU has no such products, or no layer has widths that are multiples of 16.
    """
    if not emulate:
        check_float8()
    convert, make_config = _torchao()
    chosen = {id(layer) for layer in model.blocks.modules() if _is_suited(layer)}  # pyright: ignore
    if not chosen:
        raise ValueError(
            "trainer.float8=true, but no dense layer of the blocks has widths that are multiples "
            f"of {WIDTH_MULTIPLE}; use trainer.float8=false"
        )
    convert(
        model,
        module_filter_fn=lambda layer, _name: id(layer) in chosen,
        config=make_config(emulate=emulate),
    )
    return len(chosen)


def _is_suited(layer: nn.Module) -> bool:
    return type(layer) is nn.Linear and not (
        layer.in_features % WIDTH_MULTIPLE or layer.out_features % WIDTH_MULTIPLE
    )


def check_float8() -> None:
    """Check that this machine can multiply in float8.

    Raises:
        ModuleNotFoundError: torchao is not installed.
        ValueError: there is no GPU with such products.
    """
    _torchao()
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < LEAST_CAPABILITY:
        raise ValueError(
            "trainer.float8=true needs an NVIDIA GPU of compute capability 8.9 or later (Ada, "
            "Hopper or newer); use trainer.float8=false"
        )


def _torchao() -> tuple[Any, Any]:
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "trainer.float8=true needs torchao; install it with pip install 'mobilellm[float8]'"
        ) from None
    return convert_to_float8_training, Float8LinearConfig
