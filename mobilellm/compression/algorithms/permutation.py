"""Search for orders of rows and columns in which weights are nearer to sums of Kronecker products.

The search starts from several orders (the present one, two sorted by norm and by the leading
singular vector, and random ones) and improves them by exact linear assignments. The result is a
local optimum: if the rows of an exact sum are shuffled, their order is recovered often but not
always.

Source: the form P W Q ≈ Σ leftᵢ ⊗ rightᵢ is from TQCompressor, arXiv:2401.16367; the search
method is this project's own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mobilellm.compression.algorithms.arrangement import Arrangement, Member, Side, order_matters
from mobilellm.compression.algorithms.kronecker import nearest_kronecker
from mobilellm.compression.algorithms.permutation_race import PermutationSearch, Race
from mobilellm.layers import Size
from mobilellm.layers.part_shape import PartShape

WeightPart = tuple[Tensor, PartShape]


__all__ = ["PermutationSearch", "Permutations", "UnitPermutation", "search_permutations",
           "search_unit_permutation"]  # fmt: skip


@dataclass(frozen=True)
class Permutations:
    """Orders p and q with W[p][:, q] ≈ Σ leftᵢ ⊗ rightᵢ.

    `FactorizedLinear` undoes them with row_order=rows.argsort(), column_order=columns.
    """

    rows: Tensor
    """p, (out,) int64: the index of the row that is moved to each position."""
    columns: Tensor
    """q, (in,) int64: the index of the column that is moved to each position."""
    error: float
    """‖W[p][:, q] − Σ leftᵢ ⊗ rightᵢ‖ / ‖W‖, in Frobenius norms."""
    identity_error: float
    """The same error without reordering; never below `error`."""


@dataclass(frozen=True)
class UnitPermutation:
    """One order of units shared by several weights."""

    order: Tensor
    """(num_units,) int64: the index of the unit at each position, as `permute_units_` takes it."""
    error: float
    """Root mean square over the weights of the relative error."""
    identity_error: float
    """The same error without reordering; never below `error`."""


def search_permutations(
    weight: Float[Tensor, "rows columns"],
    left_shape: Size,
    right_shape: Size,
    num_terms: int = 1,
    *,
    rows: bool = True,
    columns: bool = True,
    search: PermutationSearch | None = None,
) -> Permutations:
    """Orders of rows and columns in which `weight` is nearer to a sum of Kronecker products.

    Rows (or columns) are not reordered if either factor has only one of them, because their order
    then does not change the error.

    Args:
        weight: (m1·m2, n1·n2).
        left_shape: (m1, n1).
        right_shape: (m2, n2).
        num_terms: number of products in the sum.
        rows: whether rows may be reordered.
        columns: whether columns may be reordered.
        search: default: `PermutationSearch()`.

    Raises:
        ValueError: the shapes or the number of terms do not fit the weight, or it has entries that
            are not finite.
    """
    part = PartShape(left=left_shape, right=right_shape, num_terms=num_terms)
    identity_error = _rms_error([(weight, part)])
    sides = tuple(
        Side((Member(0, dim),), size)
        for dim, (size, asked) in enumerate(zip(weight.shape, (rows, columns), strict=True))
        if asked and order_matters(part, dim)
    )
    found = _search([(weight, part)], sides, search or PermutationSearch())
    orders = [torch.arange(size) for size in weight.shape]
    for side, order in zip(sides, found, strict=True):
        orders[side.members[0].dim] = order
    p, q = (order.to(weight.device) for order in orders)
    error = _rms_error([(weight[p][:, q], part)])
    if error > identity_error:  # The errors are equal up to rounding.
        p, q = (torch.arange(size, device=weight.device) for size in weight.shape)
    return Permutations(p, q, min(error, identity_error), identity_error)


def search_unit_permutation(
    row_weights: Sequence[WeightPart],
    column_weights: Sequence[WeightPart],
    *,
    unit: int = 1,
    groups: int = 1,
    search: PermutationSearch | None = None,
) -> UnitPermutation:
    """One order of units that brings several weights nearer to sums of Kronecker products.

    Minimises the sum over the weights of the squared relative error, so that all weights have the
    same importance. If all layers that share the units are reordered (`permute_units_`), nothing
    has to be stored and the model's function does not change.

    Args:
        row_weights: weights (num_units·unit, …) whose rows are the units, such as gate and up
            projections, each with the shape of the sum that will replace it.
        column_weights: the same for weights (…, num_units·unit) whose columns are the units, such
            as the down projection.
        unit: number of rows or columns of one unit, `head_dim` for heads.
        groups: number of groups; a unit moves only within its group of num_units / groups units.
        search: default: `PermutationSearch()`.

    Raises:
        ValueError: there is no weight, the sizes differ or are not divisible by unit x groups, a
            shape does not fit its weight, or a weight has entries that are not finite.
    """
    weights = [*row_weights, *column_weights]
    dims = [0] * len(row_weights) + [1] * len(column_weights)
    num_units = _count_units([w.shape[d] for (w, _), d in zip(weights, dims, strict=True)],
                             unit, groups)  # fmt: skip
    identity_error = _rms_error(weights)
    members = tuple(
        Member(index, dim)
        for index, ((_, part), dim) in enumerate(zip(weights, dims, strict=True))
        if order_matters(part, dim, unit)
    )
    identity = torch.arange(num_units, device=weights[0][0].device)
    if not members or groups == num_units:
        return UnitPermutation(identity, identity_error, identity_error)
    side = Side(members, num_units, unit, groups)
    (order,) = _search(weights, (side,), search or PermutationSearch())
    features = side.features(order).flatten()
    moved = [
        w.index_select(d, features.to(w.device)) for (w, _), d in zip(weights, dims, strict=True)
    ]
    error = _rms_error([(w, part) for w, (_, part) in zip(moved, weights, strict=True)])
    if error > identity_error:  # The errors are equal up to rounding.
        return UnitPermutation(identity, identity_error, identity_error)
    return UnitPermutation(order.to(identity.device), error, identity_error)


def _count_units(sizes: Sequence[int], unit: int, groups: int) -> int:
    if not sizes:
        raise ValueError("there are no weights; give row_weights, column_weights or both")
    if len(set(sizes)) > 1:
        raise ValueError(
            f"the weights have {', '.join(map(str, sizes))} rows or columns for the units; give "
            "weights with equal numbers"
        )
    for name, value in (("unit", unit), ("groups", groups)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
    if sizes[0] % (unit * groups):
        raise ValueError(
            f"{sizes[0]} rows or columns must be divisible by unit={unit} x groups={groups}"
        )
    return sizes[0] // unit


def _rms_error(weights: Sequence[WeightPart]) -> float:
    """Root mean square of the weights' relative errors, computed from the materialised products."""
    total = 0.0
    for weight, part in weights:
        dense = weight.detach().double().cpu()
        if not dense.isfinite().all():
            raise ValueError(
                f"the weight of shape {tuple(weight.shape)} has entries that are not finite; "
                "use a model whose weights are finite"
            )
        left, right = nearest_kronecker(dense, part.left, part.right, part.num_terms)
        fitted = torch.einsum("tac,tbd->abcd", left, right).reshape(dense.shape)
        norm = float(dense.square().sum())
        total += float((dense - fitted).square().sum()) / norm if norm > 0 else 0.0
    return math.sqrt(total / len(weights))


def _search(
    weights: Sequence[WeightPart], sides: tuple[Side, ...], search: PermutationSearch
) -> tuple[Tensor, ...]:
    """The best order that was found for each side."""
    if not sides:
        return ()
    normed = []
    for weight, _ in weights:
        dense = weight.detach().double().cpu()
        norm = torch.linalg.vector_norm(dense)
        normed.append(dense / norm if norm > 0 else dense)
    identity = Arrangement(
        tuple(part for _, part in weights),
        sides,
        tuple(normed),
        tuple(torch.arange(side.num_units) for side in sides),
    )
    return Race(search).best(identity).orders
