"""Permutations that are absorbed by neighbouring layers or stored as indices."""

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from mobilellm.compression.algorithms.coupling import Coupling, permute_units_
from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.algorithms.permutation import (
    PermutationSearch,
    search_permutations,
    search_unit_permutation,
)
from mobilellm.compression.algorithms.sums import SumFit
from mobilellm.compression.apply import dense_weight, working_copy
from mobilellm.compression.couplings import couplings
from mobilellm.compression.plan import LayerwisePlan
from mobilellm.layers.factorized import FactorizedLinear, FactorizedShape
from mobilellm.layers.part_shape import PartShape
from mobilellm.models import MobileLLM


def with_permutations(shape: FactorizedShape, permutations: str) -> FactorizedShape:
    """`shape` with stored row and column permutations, if `permutations` asks for them.

    Rows (columns) are not permuted if the left or the right factors have a single row (column),
    because their order then does not change the error.
    """
    part = kronecker_part(shape)
    if permutations not in ("stored", "all") or part is None:
        return shape
    matters = [min(part.left[side], part.right[side]) > 1 for side in (0, 1)]
    return replace(shape, row_permutation=matters[0], column_permutation=matters[1])


def kronecker_part(shape: FactorizedShape) -> PartShape | None:
    """The first part that is not low rank, which is the one whose error depends on the order."""
    return next((part for part in shape.parts if not part.is_low_rank), None)


def permuted_fit(
    goal: Tensor,
    shape: FactorizedShape,
    metric: Metric,
    search: PermutationSearch,
    dtype: torch.dtype = torch.float32,
) -> FactorizedLinear:
    """Fit a shape with stored permutations to `goal` (out, in).

    The permutations are searched for on the residual of the low-rank parts. They are used only if
    they lower the error under `metric`.
    """
    part = kronecker_part(shape)
    plain = FactorizedShape(parts=shape.parts)
    rows, columns = (torch.arange(size, device=goal.device) for size in shape.size)
    best = SumFit(goal, plain, metric).improve()
    if part is not None:
        found = search_permutations(
            _low_rank_residual(goal, shape, metric), part.left, part.right, part.num_terms,
            rows=shape.row_permutation, columns=shape.column_permutation, search=search,
        )  # fmt: skip
        moment = metric.moment
        if moment is not None:
            moment = moment[found.columns][:, found.columns]
        weights = None if metric.rows is None else metric.rows[found.rows]
        other = SumFit(goal[found.rows][:, found.columns], plain, Metric(moment, weights)).improve()
        if other.error < best.error:
            best, rows, columns = other, found.rows, found.columns
    return FactorizedLinear(
        best.layer(dtype).parts,  # pyright: ignore[reportArgumentType]
        row_order=rows.argsort() if shape.row_permutation else None,
        column_order=columns if shape.column_permutation else None,
    )


def absorb_permutations(
    model: MobileLLM, plan: LayerwisePlan, search: PermutationSearch
) -> MobileLLM:
    """A copy of `model` with hidden units and heads reordered to lower the errors of `plan`.

    The copy computes the same function. Units of layers that are compressed already are not
    reordered.
    """
    permuted = working_copy(model)
    for coupling in couplings(model.config):
        order = _unit_order(permuted, coupling, plan, search)
        if order is not None:
            permute_units_(permuted, coupling, order)
    return permuted


def _unit_order(
    model: MobileLLM, coupling: Coupling, plan: LayerwisePlan, search: PermutationSearch
) -> Tensor | None:
    """The order of units for the planned layers of one coupling; None if it has no effect."""
    members = (*coupling.rows, *coupling.columns)
    if any(name in model.config.layer_shapes for name in members):
        return None
    rows = list(_sides(model, plan, coupling.rows, side=0))
    columns = list(_sides(model, plan, coupling.columns, side=1))
    if not rows and not columns:
        return None
    found = search_unit_permutation(
        rows, columns, unit=coupling.unit, groups=coupling.groups, search=search
    )
    return found.order


def _sides(
    model: MobileLLM, plan: LayerwisePlan, names: Iterable[str], side: int
) -> Iterable[tuple[Tensor, PartShape]]:
    # All shapes in a plan of `Factorization` are factorised.
    shapes = cast("dict[str, FactorizedShape]", plan.compressed_layers)
    for name in names:
        shape = shapes.get(name)
        part = None if shape is None else kronecker_part(shape)
        if part is not None and min(part.left[side], part.right[side]) > 1:
            yield _low_rank_residual(dense_weight(model, name), shape, Metric()), part  # pyright: ignore


def _low_rank_residual(weight: Tensor, shape: FactorizedShape, metric: Metric) -> Tensor:
    """The residual of `weight` after the low-rank parts of `shape` are fitted."""
    low = tuple(part for part in shape.parts if part.is_low_rank)
    if not low:
        return weight.double()
    fit = SumFit(weight, FactorizedShape(parts=low), metric)
    return weight.double() - fit.layer(torch.float64).materialize().detach()
