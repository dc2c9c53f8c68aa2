"""Choosing the inputs of a layer that can be removed with the least error after a refit."""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mobilellm.compression.algorithms.metric import Metric


def surviving_units(
    weight: Float[Tensor, "out_features in_features"],
    second_moment: Float[Tensor, "in_features in_features"],
    count: int,
    unit: int = 1,
    groups: int = 1,
) -> Int[Tensor, "kept"]:
    """The units that remain after the cheapest unit has been removed again and again.

    Removing unit u and refitting the other columns to the outputs increases E‖W x − Ŵ x‖² by
    tr(W_u (H_uu)⁻¹ W_uᵀ), where H is the inverse of S = E[x xᵀ] and W_u the columns of u. The unit
    with the smallest increase is removed, and W and H are updated to those of the remaining
    inputs. A unit whose output the others can replace is therefore removed even if its own output
    is large, and of two such units only one.

    Args:
        weight: W (out, units × unit).
        second_moment: S (in, in).
        count: number of units to keep in each group.
        unit: number of inputs of one unit.
        groups: number of groups, which consist of consecutive units and have equal sizes.

    Returns:
        Indices of the kept units (groups × count,), ascending.

    Source: Hassibi and Stork 1992, optimal brain surgeon, for single weights; Lin et al. 2024,
    MoDeGPT, arXiv:2408.09632, section 3, for closed-form removal of channels.
    """
    # The columns of the weight are rows in memory, so that products of a unit's columns are fast.
    columns = weight.detach().double().T.clone(memory_format=torch.contiguous_format)  # (in, out)
    moment = cast("Tensor", Metric(second_moment).moment)  # damped, so that it can be inverted
    inverse = torch.linalg.inv(moment)
    total = len(columns) // unit
    # Views, which follow the updates in place.
    by_unit = columns.view(total, unit, -1)
    blocks = inverse.view(total, unit, total, unit).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    alive = torch.ones(total, dtype=torch.bool, device=moment.device)
    identity = torch.eye(unit, dtype=moment.dtype, device=moment.device)
    for _ in range(total - groups * count):
        products = by_unit @ by_unit.mT  # W_uᵀ W_u of each unit, (units, unit, unit)
        increases = (products * _inverse(blocks)).sum(dim=(1, 2))
        left = alive.view(groups, -1).sum(dim=1, keepdim=True)
        removable = alive & (left > count).expand(-1, total // groups).flatten()
        removed = int(increases.masked_fill(~removable, torch.inf).argmin())
        alive[removed] = False
        # The inverse of the moment of the remaining inputs is a Schur complement.
        own = slice(removed * unit, (removed + 1) * unit)
        scaled = inverse[:, own] @ _inverse(inverse[own, own])  # (in, unit)
        columns.addmm_(scaled, columns[own].clone(), alpha=-1)
        inverse.addmm_(scaled, inverse[own].clone(), alpha=-1)
        # Rounding must not bring removed units back.
        columns[own] = 0
        inverse[own] = 0
        inverse[:, own] = 0
        inverse[own, own] = identity
    return alive.nonzero().squeeze(1)


def _inverse(matrices: Tensor) -> Tensor:
    """Inverses of square matrices; those of single numbers are much faster than by a solver."""
    return matrices.reciprocal() if matrices.shape[-1] == 1 else torch.linalg.inv(matrices)
