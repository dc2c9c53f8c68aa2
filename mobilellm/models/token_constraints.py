"""Constraints on the tokens of generated texts, one for each row of a batch."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class TokenConstraint(Protocol):
    """Which tokens may come next, such as `mobilellm.inference.constrained.Constraint`."""

    def allowed(self, size: int) -> Bool[Tensor, " size"]:
        """Whether each of `size` tokens may come next, (size,)."""
        ...

    def advance(self, token: int) -> None:
        """Continue after a token that was chosen."""
        ...


def unfinished(
    constraints: Sequence[TokenConstraint | None] | None,
    rows: Int[Tensor, " rows"],
    ended: Bool[Tensor, " rows"],
) -> dict[int, TokenConstraint]:
    """The constraints of the rows that have not ended, by their places among `rows`."""
    if constraints is None:
        return {}
    places = enumerate(zip(rows.tolist(), ended.tolist(), strict=True))
    found = {place: constraints[row] for place, (row, is_ended) in places if not is_ended}
    return {place: one for place, one in found.items() if one is not None}


def allowed_tokens(
    constraints: Mapping[int, TokenConstraint], logits: Float[Tensor, "batch vocab"]
) -> Bool[Tensor, "batch vocab"] | None:
    """Which tokens may come next in each row, (batch, vocab); None: all of them.

    Args:
        constraints: by row; rows without one may have all tokens.
        logits: of the next token.
    """
    if not constraints:
        return None
    allowed = torch.ones(logits.shape, dtype=torch.bool)
    for row, constraint in constraints.items():
        allowed[row] = constraint.allowed(logits.shape[-1])
    return allowed.to(logits.device)
