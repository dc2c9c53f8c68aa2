"""Two numbers of four bits in one byte."""

import torch
from jaxtyping import UInt8
from torch import Tensor


def pack_nibbles(values: UInt8[Tensor, "*rows columns"]) -> UInt8[Tensor, "*rows bytes"]:
    """Pack neighbouring numbers, of which the first is in the four low bits.

    Args:
        values: (..., columns), each from 0 to 15; the number of columns is even.

    Returns:
        (..., columns / 2).
    """
    return values[..., 0::2] | values[..., 1::2] << 4


def unpack_nibbles(packed: UInt8[Tensor, "*rows bytes"]) -> UInt8[Tensor, "*rows columns"]:
    """The inverse of `pack_nibbles`."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)
