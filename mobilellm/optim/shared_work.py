"""Share a computation on many matrices among ranks that hold the same ones."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, distributed

SHARED_ON = ("cuda",)
"""Devices whose ranks share the work: sending results between CPUs costs more than it saves."""


def is_shared(device: torch.device, number: int) -> bool:
    """Whether several ranks share the work on so many matrices.

    Args:
        device: where the matrices are.
        number: of matrices, the same on all ranks.
    """
    if device.type not in SHARED_ON or number < 2:
        return False
    return distributed.is_available() and distributed.is_initialized() and _size() > 1


def compute_shared(
    compute: Callable[[Tensor], Tensor],
    matrices: Float[Tensor, "number rows columns"],
    dtype: torch.dtype,
) -> Float[Tensor, "number rows columns"]:
    """Apply `compute` to a part of the matrices on each rank, and return all results on every rank.

    It must be called on all ranks, with equal matrices. The host does not wait for the device.

    Args:
        compute: maps matrices (some, rows, columns) to others of the same sizes, one by one.
        matrices: (number, rows, columns), at least as many as one.
        dtype: of the results of `compute`.
    """
    number = matrices.shape[0]
    share = -(-number // _size())
    first = share * distributed.get_rank()
    part = matrices.new_zeros((share, *matrices.shape[1:]), dtype=dtype)
    mine = matrices[first : first + share]
    if len(mine):
        part[: len(mine)] = compute(mine)
    results = part.new_empty((share * _size(), *matrices.shape[1:]))
    # The new name of the same function since torch 2.13.
    gather = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
    gather(results, part)
    return results[:number]


def _size() -> int:
    return distributed.get_world_size()
