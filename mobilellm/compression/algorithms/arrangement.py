"""Weights whose rows and columns are being reordered towards sums of Kronecker products.

The one move is an exact linear assignment. With a term's factors on one side held orthonormal
(say the right ones), the best left ones and the gain Σ‖leftᵢ‖² follow from where the rows stand,
and each block of m2 rows has its own share of it. Take one row out of every block: what each would
add at each vacant place does not depend on where the others go, so that the best of all
reassignments is found by the Hungarian method. Reordering only by the distance to the fitted
product, as is usual, holds every row back at the place that it was fitted to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from mobilellm.compression.algorithms.kronecker import rearrange, truncated_svd
from mobilellm.layers.kronecker import PartShape

# An assignment of n places takes up to n³ operations; larger ones are split.
MAX_PLACES = 768


class Member(NamedTuple):
    """One side of one weight."""

    weight: int
    """Index of the weight."""
    dim: int
    """0: its rows, 1: its columns."""


@dataclass(frozen=True)
class Side:
    """Units that move together along some sides of some weights."""

    members: tuple[Member, ...]
    """Only those on which the order of the units matters."""
    num_units: int
    unit: int = 1
    """Rows or columns of one unit."""
    groups: int = 1
    """Units move only within their group of num_units / groups."""

    def features(self, units: Tensor) -> Tensor:
        """Rows or columns of the units, (n,) -> (n, unit)."""
        return units.unsqueeze(-1) * self.unit + torch.arange(self.unit)

    def group_of(self, units: Tensor) -> Tensor:
        """The group of each unit."""
        return units // (self.num_units // self.groups)


class Slots(NamedTuple):
    """Where each feature of a side stands in a Kronecker product."""

    blocks: Tensor
    """Which rows (features,) of the free factor it adds to."""
    slots: Tensor
    """Which row (features,) of the held factor it is multiplied by."""
    hold_right: bool
    """Whether the right factors are the held ones: those with fewer rows."""


def slots_of(part: PartShape, dim: int) -> Slots:
    """Places of the rows (`dim` 0) or columns (1) of a weight of the given part."""
    m1, m2 = part.left[dim], part.right[dim]
    index = torch.arange(m1 * m2)
    if m1 >= m2:
        return Slots(index // m2, index % m2, True)
    return Slots(index % m2, index // m2, False)


def order_matters(part: PartShape, dim: int, unit: int = 1) -> bool:
    """Whether reordering units of rows (`dim` 0) or columns (1) can change the error.

    Whole blocks may take any order, since the left factors follow them.
    """
    return part.left[dim] > 1 and unit % part.right[dim] > 0


@dataclass(frozen=True)
class Arrangement:
    """Weights in their present order, with the nearest sums of Kronecker products."""

    parts: tuple[PartShape, ...]
    sides: tuple[Side, ...]
    weights: tuple[Tensor, ...]
    """Reordered, float64, each of Frobenius norm 1 (or zero)."""
    orders: tuple[Tensor, ...]
    """Per side (num_units,): the unit that stands at each place."""

    @cached_property
    def factors(self) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
        """Per weight the leading singular vectors and values of the rearranged weight."""
        return tuple(
            truncated_svd(rearrange(weight, part.left, part.right), part.num_terms)
            for weight, part in zip(self.weights, self.parts, strict=True)
        )

    @cached_property
    def gain(self) -> float:
        """Sum of the squared norms of the fitted products: what the errors leave of 1 each."""
        return sum(float(s.double().square().sum()) for _, s, _ in self.factors)

    @property
    def squared_error(self) -> float:
        """Sum over the weights of squared error over squared norm."""
        return sum(float(w.square().sum()) for w in self.weights) - self.gain

    def reordered(self, side: int, order: Tensor) -> "Arrangement":
        """The unit at place order[i] comes to place i."""
        weights, orders = list(self.weights), list(self.orders)
        features = self.sides[side].features(order).flatten()
        for index, dim in self.sides[side].members:
            weights[index] = weights[index].index_select(dim, features)
        orders[side] = orders[side][order]
        return replace(self, weights=tuple(weights), orders=tuple(orders))

    def profits(self, side: int, places: Tensor) -> Tensor:
        """What each unit at `places` would add to the gain at each of them: (place, unit).

        Up to a constant; exact with the held factors as they are, where no two of the places
        share a block.
        """
        features = self.sides[side].features(places)
        members = self.sides[side].members
        return torch.stack([self._member_profits(m, features) for m in members]).sum(0)

    def _member_profits(self, member: Member, features: Tensor) -> Tensor:
        """(place, unit) for one weight; features (k, unit)."""
        held, free, rows, where = self._view(member)
        blocks, slots = where.blocks[features], where.slots[features]
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
        """Held factors (terms, slots, d), free ones (terms, blocks, c), weight (features, c, d)."""
        part, dim = self.parts[member.weight], member.dim
        where = slots_of(part, dim)
        u, s, v = (factor.double() for factor in self.factors[member.weight])
        held, free = (v, u * s) if where.hold_right else (u, v * s)
        held_shape, free_shape = part.right, part.left
        if not where.hold_right:
            held_shape, free_shape = free_shape, held_shape
        held = held.T.reshape(-1, *held_shape)
        free = free.T.reshape(-1, *free_shape)
        weight = self.weights[member.weight]
        rows = (weight.T if dim else weight).unflatten(1, (part.left[1 - dim], part.right[1 - dim]))
        if dim:
            held, free = held.mT, free.mT
        return held, free, rows if where.hold_right else rows.mT, where


def batches(side: Side, parts: Sequence[PartShape], generator: torch.Generator) -> list[Tensor]:
    """All places in random sets, in each of which no two share a block of any weight."""
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


def assigned(arrangement: Arrangement, side: int, places: Tensor) -> Arrangement:
    """The units at `places` in the order that gains most; never worse."""
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
    places: Tensor,
    temperature: float | None,
    generator: torch.Generator,
) -> tuple[Arrangement, int, float]:
    """Pairs of units exchanged as simulated annealing does, all pairs of `places` at once.

    Args:
        arrangement: the present order.
        side: which units.
        places: no two in one block, in random order; paired within groups.
        temperature: in units of the gain; None: the mean size of a change.
        generator: draws what is accepted.

    Returns:
        The new arrangement, the number of pairs tried, the temperature used.
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
