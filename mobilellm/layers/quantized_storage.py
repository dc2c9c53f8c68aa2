"""The tensors that store a quantized matrix, as `NumberFormat.layout` lists them."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from mobilellm.layers.nibbles import pack_nibbles, unpack_nibbles
from mobilellm.layers.normal_float import PackedScales
from mobilellm.layers.number_format import NumberFormat
from mobilellm.layers.quantization_grid import Grid
from mobilellm.layers.shape import Size

Tensors = Mapping[str, Tensor]


def store(codes: Float[Tensor, "rows columns"], grid: Grid) -> dict[str, Tensor]:
    """Pack codes (rows, columns), whole numbers as `Grid.codes_of` returns them, and their grid."""
    number_format = grid.number_format
    tensors: dict[str, Tensor] = {}
    if number_format.bits == 4:
        unsigned = (codes - number_format.lowest_code).to(torch.uint8)
        tensors["codes"] = pack_nibbles(unsigned)
    else:
        tensors["codes"] = codes.to(torch.int8 if number_format.symmetric else torch.uint8)
    if grid.packed_scales is None:
        tensors["scales"] = grid.scales.half()
    else:
        parts = zip(PackedScales._fields, grid.packed_scales, strict=True)
        tensors |= {f"scale_{name}": tensor for name, tensor in parts}
    if grid.zeros is not None:
        tensors["zeros"] = grid.zeros.to(torch.uint8)
    return tensors


def restore(
    tensors: Tensors, number_format: NumberFormat, index: Tensor | slice = slice(None)
) -> Float[Tensor, "rows columns"]:
    """The weights that the tensors store, in float32.

    Args:
        tensors: as `store` returns them.
        number_format: in which they are stored.
        index: indices of rows (selected,), or a slice; default: all rows.
    """
    codes = tensors["codes"][index]
    if number_format.bits == 4:
        codes = unpack_nibbles(codes)
        if number_format.is_signed:
            codes = codes.to(torch.int8) + number_format.lowest_code
    if "scales" in tensors:
        scales = tensors["scales"][index].float()
    else:
        parts = (tensors[f"scale_{name}"] for name in PackedScales._fields)
        scales = PackedScales(*parts).unpack()[index]
    zeros = tensors["zeros"][index].float() if "zeros" in tensors else None
    return Grid(number_format, scales, zeros).values_of(codes)


def stored_size(tensors: Tensors, number_format: NumberFormat) -> Size:
    """Rows and columns of the matrix that the tensors store.

    Raises:
        ValueError: the tensors are not those of a matrix in this number format.
    """
    codes = tensors.get("codes")
    if codes is None or codes.dim() != 2:
        raise ValueError(f"{number_format} requires the tensor codes, with two dimensions")
    size = codes.shape[0], codes.shape[1] * 8 // number_format.bits
    number_format.check(size)
    wanted = {
        name: torch.empty(shape, dtype=dtype, device="meta")
        for name, (shape, dtype) in number_format.layout(size).items()
    }
    if describe(tensors) != describe(wanted):
        raise ValueError(
            f"the tensors of a {size[0]}x{size[1]} matrix in {number_format} are "
            f"{describe(tensors)}; give {describe(wanted)}"
        )
    return size


def describe(tensors: Tensors) -> str:
    """Types and sizes by name, e.g. `codes uint8 (64, 16), scales float16 (64, 1)`."""
    return ", ".join(
        f"{name} {str(tensors[name].dtype).removeprefix('torch.')} {tuple(tensors[name].shape)}"
        for name in sorted(tensors)
    )
