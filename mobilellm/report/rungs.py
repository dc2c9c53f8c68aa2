"""Recognises a ladder among configurations: several sizes, each with several depths and budgets.

Losses of different sizes, or after different numbers of tokens, differ for reasons that are no
property of the shapes. In a ladder, shapes are therefore compared within one size and at its
largest number of tokens; everything else serves to predict one size from others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mobilellm.report.comparability import comparable_subsets
from mobilellm.report.labels import make_labels
from mobilellm.report.run_groups import RunGroup
from mobilellm.report.run_settings import compression_text, distillation_text
from mobilellm.search.ladder_runs import TOKEN_GAP, number_sizes
from mobilellm.units import count_text

FEWEST_SIZES = 2
FEWEST_DEPTHS = 2
DIFFERENT_SIZE = "different size"


@dataclass(frozen=True)
class Rung:
    """The configurations of one size."""

    body: float
    """Body parameters, the mean over the shapes."""
    tokens: int
    """The largest number of training tokens."""
    groups: tuple[RunGroup, ...]
    """The configurations with that number of tokens, from wide to deep."""
    shorter: tuple[RunGroup, ...]
    """Those with fewer tokens."""

    @property
    def name(self) -> str:
        """`50.0k body parameters`."""
        return f"{count_text(self.body)} body parameters"

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the configurations with the largest number of tokens."""
        return tuple(group.label for group in self.groups)


def find_rungs(groups: Sequence[RunGroup]) -> tuple[Rung, ...]:
    """The sizes of a ladder, from small to large; empty if the configurations are no ladder.

    A ladder has at least two sizes with at least two depths each, and the sizes, or the runs of one
    shape, have different numbers of tokens. It consists of comparable, uncompressed models. Sizes
    with one depth, of which the others may still be training, belong to it too.
    """
    if not groups or len(comparable_subsets(groups)) > 1:
        return ()
    if any(compression_text(g.first) or distillation_text(g.first) for g in groups):
        return ()
    found = tuple(_rung(members) for members in _by_size(groups))
    depths = [len({group.model.num_layers for group in rung.groups}) for rung in found]
    tokens = [group.first.tokens for group in groups]
    num_sizes = sum(number >= FEWEST_DEPTHS for number in depths)
    is_ladder = num_sizes >= FEWEST_SIZES and max(tokens) > TOKEN_GAP * min(tokens)
    return _with_short_labels(found) if is_ladder else ()


def _with_short_labels(rungs: Sequence[Rung]) -> tuple[Rung, ...]:
    """The rungs, with labels that distinguish only configurations of the largest budgets."""
    full = [group for rung in rungs for group in rung.groups]
    labels = make_labels([group.first for group in full])
    named = {group.label: label for group, label in zip(full, labels, strict=True)}
    return tuple(
        replace(rung, groups=tuple(replace(g, label=named[g.label]) for g in rung.groups))
        for rung in rungs
    )


def size_reason(rungs: Sequence[Rung], first: str, second: str) -> str | None:
    """Why two configurations of a ladder are not compared; None if they are of one size."""
    place = {label: index for index, rung in enumerate(rungs) for label in rung.labels}
    return None if place.get(first) == place.get(second) else DIFFERENT_SIZE


def _by_size(groups: Sequence[RunGroup]) -> list[list[RunGroup]]:
    numbers = number_sizes([group.first.parameters["body"] for group in groups])
    found: list[list[RunGroup]] = [[] for _ in range(numbers.max() + 1)]
    for group, number in zip(groups, numbers, strict=True):
        found[number].append(group)
    return found


def _rung(members: Sequence[RunGroup]) -> Rung:
    most = max(group.first.tokens for group in members)
    is_full = [group.first.tokens * TOKEN_GAP >= most for group in members]
    full = tuple(g for g, keep in zip(members, is_full, strict=True) if keep)
    shorter = tuple(g for g, keep in zip(members, is_full, strict=True) if not keep)
    body = float(np.mean([group.first.parameters["body"] for group in full]))
    return Rung(body, most, full, shorter)
