"""Masked weights as they are kept on disk: the values that stay and one bit for each entry.

At half of the weights in float32 that is 17 bits an entry instead of 40 (weight and mask whole).
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mobilellm.layers.shapes import Shape

VALUES, BITS = "kept_values", "mask_bits"


def pack_masks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model, with `NAME.weight` and `NAME.mask` of masked matrices packed.

    Args:
        state: a state dict; masks are bool (out, in), True = kept.

    Returns:
        The same, with `NAME.kept_values` (kept,), row by row, and `NAME.mask_bits`
        (⌈out·in / 8⌉,) uint8, the first entry in the highest bit of the first byte.
    """
    packed = {}
    for key, tensor in state.items():
        name, _, kind = key.rpartition(".")
        if kind == "mask":
            bits = np.packbits(tensor.cpu().numpy().reshape(-1))
            packed[f"{name}.{BITS}"] = torch.from_numpy(bits)
        elif kind == "weight" and f"{name}.mask" in state:
            packed[f"{name}.{VALUES}"] = tensor[state[f"{name}.mask"]]
        else:
            packed[key] = tensor
    return packed


def unpack_masks(state: Mapping[str, Tensor], sizes: Mapping[str, Shape]) -> dict[str, Tensor]:
    """The inverse of `pack_masks`; tensors that are not packed stay as they are.

    Args:
        state: as `pack_masks` gives it.
        sizes: rows and columns of each matrix, by name.

    Raises:
        ValueError: bits or values of another number than the matrix has.
    """
    unpacked = {}
    for key, tensor in state.items():
        name, _, kind = key.rpartition(".")
        if kind not in (VALUES, BITS) or name not in sizes:
            unpacked[key] = tensor
        elif kind == BITS:
            values = state.get(f"{name}.{VALUES}")
            mask = _mask(name, tensor, sizes[name], None if values is None else values.numel())
            weight = torch.zeros(sizes[name], dtype=values.dtype)  # pyright: ignore
            weight[mask] = values  # pyright: ignore[reportArgumentType]
            unpacked |= {f"{name}.weight": weight, f"{name}.mask": mask}
        elif f"{name}.{BITS}" not in state:
            raise ValueError(f"{name} has kept_values and no mask_bits; save the model again")
    return unpacked


def _mask(name: str, bits: Tensor, size: Shape, kept: int | None) -> Tensor:
    entries = math.prod(size)
    if bits.dtype != torch.uint8 or bits.numel() != -(-entries // 8):
        raise ValueError(
            f"{name} has {bits.numel()} bytes of mask_bits; {size[0]}x{size[1]} entries need "
            f"{-(-entries // 8)}: use the config.json the weights were saved with"
        )
    mask = torch.from_numpy(np.unpackbits(bits.numpy(), count=entries)).bool().view(size)
    if kept != (wanted := int(mask.sum())):
        raise ValueError(
            f"{name} has {kept or 'no'} kept_values, and its mask_bits keep {wanted}; the file is "
            "damaged: save the model again"
        )
    return mask
