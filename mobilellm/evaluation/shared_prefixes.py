"""Groups token sequences that begin alike, so that a model reads what they share only once.

A group becomes one row of tokens, or a part of one: the shared prefix, and then the rest of each
sequence, one after another. An attention mask lets each rest see the prefix and itself only, and
each token keeps the position that it has in its own sequence. The hidden states are therefore those
of separate rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

SMALLEST_SAVING = 0.25
"""Share of a sequence's tokens that joining a group must save; below it, the longer row with its
mask costs more than it saves."""
MAX_GROUP_TOKENS = 1024
"""Longest row of a group of several sequences; the attention is quadratic in the length."""

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class PrefixGroup:
    """Sequences that share their first tokens."""

    members: tuple[int, ...]
    """Indices of the sequences."""
    sequences: tuple[Tokens, ...]
    """Tokens of each, at least one."""
    prefix: int
    """Number of shared tokens; all of them if there is only one sequence."""

    @property
    def length(self) -> int:
        """Number of tokens in the row."""
        return self.prefix + sum(len(tokens) - self.prefix for tokens in self.sequences)

    @property
    def tokens(self) -> list[int]:
        """Tokens in the row: the prefix, and the rest of each sequence."""
        rests = (token for tokens in self.sequences for token in tokens[self.prefix :])
        return [*self.sequences[0][: self.prefix], *rests]

    @property
    def positions(self) -> list[int]:
        """Position of each token of the row in its own sequence."""
        rests = (range(self.prefix, len(tokens)) for tokens in self.sequences)
        return [*range(self.prefix), *(place for rest in rests for place in rest)]

    @property
    def branches(self) -> list[int]:
        """For each token of the row: 0 in the prefix, and 1, 2, … in the rest of a sequence."""
        numbered = enumerate(self.sequences, start=1)
        rests = ([number] * (len(tokens) - self.prefix) for number, tokens in numbered)
        return [*[0] * self.prefix, *(number for rest in rests for number in rest)]

    def places(self) -> Iterator[list[int]]:
        """For each sequence, the index in the row of each of its tokens."""
        start = self.prefix
        for tokens in self.sequences:
            end = start + len(tokens) - self.prefix
            yield [*range(self.prefix), *range(start, end)]
            start = end


def group_by_prefix(sequences: Sequence[Tokens]) -> list[PrefixGroup]:
    """Group sequences so that the rows of the groups have fewer tokens than the sequences.

    In lexicographic order, each sequence joins the group before it if that saves at least
    `SMALLEST_SAVING` of its tokens and the row remains short enough. The result depends only on
    the set of sequences, and not on their order.

    Args:
        sequences: token ids of each; at least one token each, and no two are equal.
    """
    groups: list[PrefixGroup] = []
    members: list[int] = []
    prefix = total = 0
    for index in sorted(range(len(sequences)), key=lambda i: sequences[i]):
        tokens = sequences[index]
        count = len(members)
        shared = _common(sequences[members[-1]], tokens, prefix) if members else 0
        # Tokens of separate rows minus those of the joint row, compared with the group as it is.
        saved = count * shared - (count - 1) * prefix
        length = total + len(tokens) - count * shared
        is_joined = saved >= max(1, SMALLEST_SAVING * len(tokens)) and length <= MAX_GROUP_TOKENS
        if members and not is_joined:
            groups.append(_group(sequences, members, prefix))
            members, prefix, total = [], 0, 0
        prefix = shared if members else len(tokens)
        members.append(index)
        total += len(tokens)
    return [*groups, _group(sequences, members, prefix)] if members else []


def group_mask(rows: Sequence[Sequence[PrefixGroup]]) -> Bool[Tensor, "rows longest longest"]:
    """Attention mask of rows of groups, without causality, which the model adds.

    Args:
        rows: the groups of each row, one after another.

    Returns:
        bool (rows, queries, keys): a token may attend to the prefix of its group and to its own
        branch. Padding attends to padding.
    """
    owners = [[n for n, group in enumerate(row) for _ in range(group.length)] for row in rows]
    owner = pad_rows(owners, -1)
    branch = pad_rows([[each for group in row for each in group.branches] for row in rows], 0)
    keys = branch.unsqueeze(1)
    is_visible = (keys == 0) | (keys == branch.unsqueeze(2))
    return is_visible & (owner.unsqueeze(1) == owner.unsqueeze(2))


def pad_rows(rows: Sequence[Sequence[int]], filler: int) -> Int[Tensor, "rows longest"]:
    """Pad rows on the right to a tensor."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])


def _group(sequences: Sequence[Tokens], members: list[int], prefix: int) -> PrefixGroup:
    return PrefixGroup(tuple(members), tuple(sequences[i] for i in members), prefix)


def _common(first: Tokens, second: Tokens, most: int) -> int:
    """Number of equal tokens at the begin of both, at most `most`."""
    end = min(len(first), len(second), most)
    if first[:end] == second[:end]:
        return end
    return next(i for i in range(end) if first[i] != second[i])
