"""Moves of a search that reorders rows and columns to fit weights by sums of Kronecker products.

Rows are moved by solving an exact linear assignment problem. If the factors on one side (say the
right ones) are orthonormal and held fixed, the order of the rows determines the best left factors
and the gain Σ‖leftᵢ‖², which is a sum over blocks of m2 rows. If one row is taken out of every
block, the gain of putting a row at a vacant position does not depend on where the other rows go,
and the Hungarian method finds the best reassignment of all rows that were taken out. The usual
criterion, the distance of each row to the fitted product, is biased towards the present order,
because the product was fitted to the rows in that order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mobilellm.compression.algorithms.kronecker import rearrange, truncated_svd
from mobilellm.layers.part_shape import PartShape

# Assigning n positions takes up to n³ operations; larger sets of positions are split.
MAX_PLACES = 768


class Member(NamedTuple):
    """One side of one weight."""

    weight: int
    """Index of the weight."""
    dim: int
    """0: its rows, 1: its columns."""


@dataclass(frozen=True)
class Side:
    """Units that are rows or columns of several weights and are reordered in all of them alike."""

    members: tuple[Member, ...]
    """The rows or columns of weights whose error depends on the order of the units."""
    num_units: int
    unit: int = 1
    """Number of rows or columns that one unit takes."""
    groups: int = 1
    """Number of groups; a unit moves only within its group of num_units / groups units."""

    def features(self, units: Int[Tensor, "n"]) -> Int[Tensor, "n unit"]:
        """Indices of the rows or columns of the units."""
        return units.unsqueeze(-1) * self.unit + torch.arange(self.unit)

    def group_of(self, units: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
        """The group of each unit."""
        return units // (self.num_units // self.groups)


class Slots(NamedTuple):
    """Position of each row (or column) of a weight in a Kronecker product."""

    blocks: Tensor
    """(features,): the row of the free factor that it contributes to."""
    slots: Tensor
    """(features,): the row of the fixed factor that it is multiplied by."""
    hold_right: bool
    """Whether the right factors are the fixed ones; the factors with fewer rows are fixed."""


def slots_of(part: PartShape, dim: int) -> Slots:
    """Positions of the rows (`dim` 0) or columns (`dim` 1) of a weight in Kronecker products."""
    m1, m2 = part.left[dim], part.right[dim]
    index = torch.arange(m1 * m2)
    if m1 >= m2:
        return Slots(index // m2, index % m2, True)
    return Slots(index % m2, index // m2, False)


def order_matters(part: PartShape, dim: int, unit: int = 1) -> bool:
    """Whether reordering units of rows (`dim` 0) or columns (`dim` 1) can change the error.

    The order of whole blocks does not matter, because the rows of the left factors can be
    reordered in the same way.
    """
    return part.left[dim] > 1 and unit % part.right[dim] > 0


@dataclass(frozen=True)
class Arrangement:
    """Weights in a given order of their rows and columns, and the sums of products fitted to them.

    An instance is not changed; a move returns a new one.
    """

    parts: tuple[PartShape, ...]
    sides: tuple[Side, ...]
    weights: tuple[Tensor, ...]
    """The reordered weights in float64, each scaled to Frobenius norm 1 unless it is zero."""
    orders: tuple[Tensor, ...]
    """One tensor (num_units,) per side: the index of the unit at each position."""

    @cached_property
    def factors(self) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
        """Leading singular vectors and values of each rearranged weight, as (U, s, V)."""
        return tuple(
            truncated_svd(rearrange(weight, part.left, part.right), part.num_terms)
            for weight, part in zip(self.weights, self.parts, strict=True)
        )

    @cached_property
    def gain(self) -> float:
        """Sum over the weights of the squared norm of the fit, which is 1 − squared error each."""
        return sum(float(s.double().square().sum()) for _, s, _ in self.factors)

    @property
    def squared_error(self) -> float:
        """Sum over the weights of the squared error divided by the squared norm."""
        return sum(float(w.square().sum()) for w in self.weights) - self.gain

    def reordered(self, side: int, order: Int[Tensor, "units"]) -> "Arrangement":
        """A copy in which the unit at position order[i] is moved to position i."""
        weights, orders = list(self.weights), list(self.orders)
        features = self.sides[side].features(order).flatten()
        for index, dim in self.sides[side].members:
            weights[index] = weights[index].index_select(dim, features)
        orders[side] = orders[side][order]
        return replace(self, weights=tuple(weights), orders=tuple(orders))

    def profits(self, side: int, places: Int[Tensor, "n"]) -> Float[Tensor, "n n"]:
        """Contribution to the gain of each unit at `places` (columns) at each of them (rows).

        The values are exact up to a constant if the fixed factors do not change and no two of the
        positions share a block.
        """
        features = self.sides[side].features(places)
        members = self.sides[side].members
        return torch.stack([self._member_profits(m, features) for m in members]).sum(0)

    def _member_profits(self, member: Member, features: Tensor) -> Tensor:
        """Profits (position, unit) for one weight; `features` is (k, unit)."""
        held, free, rows, positions = self._view(member)
        blocks, slots = positions.blocks[features], positions.slots[features]
        units = rows[features]  # (k, unit, c, d)
        same = (blocks.unsqueeze(-1) == blocks.unsqueeze(-2)).double()
        placed = held[:, slots]  # (terms, k, unit, d)
        own = torch.einsum("ktq,kqcd,ikqd->ktic", same, units, placed)
        others = free[:, blocks].movedim(0, 2) - own
        goal = torch.einsum("ktic,iktd->ktcd", others, placed)
        profits = 2 * goal.flatten(1) @ units.flatten(1).T
        patterns, kind = torch.cat([slots, same.flatten(1).long()], dim=1).unique(
            dim=0, return_inverse=True
        )
        for index in range(len(patterns)):
            places = (kind == index).nonzero().squeeze(1)
            first = places[0]
            added = torch.einsum("ktcd,itd->ktic", units, held[:, slots[first]])
            together = torch.einsum("tq,kqic->ktic", same[first], added)
            profits[places] += (added * together).sum((1, 2, 3))
        return profits

    def _view(self, member: Member) -> tuple[Tensor, Tensor, Tensor, Slots]:
        """One weight seen from one side, as `_member_profits` needs it.

        Returns:
            The fixed factors (terms, slots, d), the free factors (terms, blocks, c), the weight
            (features, c, d) and the positions of its features.
        """
        part, dim = self.parts[member.weight], member.dim
        positions = slots_of(part, dim)
        u, s, v = (factor.double() for factor in self.factors[member.weight])
        held, free = (v, u * s) if positions.hold_right else (u, v * s)
        held_shape, free_shape = part.right, part.left
        if not positions.hold_right:
            held_shape, free_shape = free_shape, held_shape
        held = held.T.reshape(-1, *held_shape)
        free = free.T.reshape(-1, *free_shape)
        weight = self.weights[member.weight]
        rows = (weight.T if dim else weight).unflatten(1, (part.left[1 - dim], part.right[1 - dim]))
        if dim:
            held, free = held.mT, free.mT
        return held, free, rows if positions.hold_right else rows.mT, positions


def batches(side: Side, parts: Sequence[PartShape], generator: torch.Generator) -> list[Tensor]:
    """All positions, divided at random into sets in which no two share a block of any weight."""
    everywhere = side.features(torch.arange(side.num_units))
    blocks = [slots_of(parts[index], dim).blocks[everywhere] for index, dim in side.members]
    touched = [
        {(member, block) for member, listed in enumerate(place) for block in listed}
        for place in zip(*(b.tolist() for b in blocks), strict=True)
    ]
    sets: list[list[int]] = []
    used: list[set[tuple[int, int]]] = []
    for place in torch.randperm(side.num_units, generator=generator).tolist():
        for taken, blocked in zip(sets, used, strict=True):
            if len(taken) < MAX_PLACES and blocked.isdisjoint(touched[place]):
                taken.append(place)
                blocked.update(touched[place])
                break
        else:
            sets.append([place])
            used.append(set(touched[place]))
    return [torch.tensor(taken) for taken in sets]


def assigned(arrangement: Arrangement, side: int, places: Int[Tensor, "n"]) -> Arrangement:
    """Reassign the units at `places` to maximise the gain, which never falls."""
    from scipy.optimize import linear_sum_assignment

    profits = arrangement.profits(side, places)
    order = torch.arange(arrangement.sides[side].num_units)
    groups = arrangement.sides[side].group_of(places)
    for group in groups.unique():
        members = (groups == group).nonzero().squeeze(1)
        within = profits[members][:, members]
        _, chosen = linear_sum_assignment(within.numpy(), maximize=True)
        order[places[members]] = places[members][torch.as_tensor(chosen)]
    moved = arrangement.reordered(side, order)
    return moved if moved.gain > arrangement.gain else arrangement


def swapped(
    arrangement: Arrangement,
    side: int,
    places: Int[Tensor, "n"],
    temperature: float | None,
    generator: torch.Generator,
) -> tuple[Arrangement, int, float]:
    """One step of simulated annealing, which proposes swaps of many pairs of units at once.

    Args:
        arrangement: the current order.
        side: index of the side whose units are swapped.
        places: positions in random order, no two in one block; neighbours in the same group are
            paired.
        temperature: in units of the gain; None: the mean absolute change of the gain.
        generator: source of the random numbers for accepting swaps.

    Returns:
        The new arrangement, the number of swaps proposed, the temperature used.
    """
    groups = arrangement.sides[side].group_of(places)
    places = places[groups.argsort(stable=True)]
    first, second = places[0 : len(places) // 2 * 2 : 2], places[1::2]
    together = arrangement.sides[side].group_of(first) == arrangement.sides[side].group_of(second)
    profits = arrangement.profits(side, places)
    own = profits.diagonal()
    a = torch.arange(0, len(first) * 2, 2)
    change = (profits[a, a + 1] + profits[a + 1, a] - own[a] - own[a + 1])[together]
    first, second = first[together], second[together]
    if temperature is None:
        temperature = float(change.abs().mean()) if len(change) else 0.0
    chance = torch.rand(len(change), generator=generator, dtype=torch.float64)
    accepted = change > temperature * chance.log()
    order = torch.arange(arrangement.sides[side].num_units)
    order[first[accepted]], order[second[accepted]] = second[accepted], first[accepted]
    return arrangement.reordered(side, order), len(change), temperature
