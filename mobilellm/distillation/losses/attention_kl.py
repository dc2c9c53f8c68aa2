"""Kullback-Leibler divergence of attention maps: KL(teacher ‖ student)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from mobilellm.distillation.losses.loss import (
    Projection,
    StateLoss,
    Structure,
    masked_mean,
    sum_over_pairs,
)
from mobilellm.distillation.losses.targets import check_mask

HEADS = ("match", "mean")


def attention_kl(student: Tensor, teacher: Tensor, mask: Tensor, *, heads: str = "match") -> Tensor:
    """Σ_keys p_T (log p_T − log p_S), mean over heads and unmasked queries, in nats.

    Keys that nobody attends to, as those of later tokens, add 0 to the value and the gradient. A
    student's weight that has rounded to 0 counts as the smallest normal number of its type.

    Args:
        student: (batch, heads, queries, keys); each row is a distribution.
        teacher: likewise; no gradient goes there.
        mask: bool (batch, queries), True = counts.
        heads: `match`, head by head, of which both need as many; `mean`, each model's mean over
            its heads.

    Returns:
        A scalar; 0 where student and teacher are equal.

    Raises:
        ValueError, TypeError: shapes that do not fit, an unknown `heads`, a mask that is not bool.

    Source: Edalati et al. 2022, KnGPT-2, arXiv:2110.08152.
    """
    _check_heads(heads)
    check_mask(mask, student.shape[:1] + student.shape[2:3])
    least = torch.finfo(student.dtype).tiny
    theirs, mine = (_rows(weights, mask, heads) for weights in (teacher.detach(), student))
    if mine.shape != theirs.shape:
        raise ValueError(
            f"the teacher's attention has shape {tuple(teacher.shape)}, the student's "
            f"{tuple(student.shape)} (batch, heads, queries, keys); both need the same tokens, "
            "and as many heads unless heads=mean"
        )
    # Clamped, 0 · log 0 is 0 for both.
    values = theirs * (theirs.clamp(min=least).log() - mine.clamp(min=least).log())
    return masked_mean(values.sum(-1).mean(1), mask)


def _rows(weights: Tensor, mask: Tensor, heads: str) -> Tensor:
    """At least in float32, 0 in masked queries, which may hold anything."""
    weights = weights.masked_fill(~mask[:, None, :, None], 0.0)
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
    return weights.mean(1, keepdim=True) if heads == "mean" else weights


def _check_heads(heads: str) -> None:
    if heads not in HEADS:
        raise ValueError(f"heads={heads!r} is not known; use one of {', '.join(HEADS)}")


@dataclass(frozen=True, kw_only=True)
class AttentionKL(StateLoss):
    """The student's tokens attend to what the teacher's attend to.

    Raises:
        ValueError: an unknown `heads`, a projection, which attention maps have no use for.
    """

    CAPTURES: ClassVar[tuple[str, ...]] = ("attention",)

    capture: str = "attention"
    """What is compared."""
    heads: str = "match"
    """`match`: head by head; `mean`: each model's mean over its heads."""

    def __post_init__(self) -> None:
        """Check the choices."""
        super().__post_init__()
        _check_heads(self.heads)
        if self.projection:
            raise ValueError(
                "projection=true maps widths, and attention maps have none; use projection=false, "
                "and heads=mean where the heads differ in number"
            )

    def check_widths(self, student: Structure, teacher: Structure) -> None:
        """Refuse heads that differ in number where they are compared one by one."""
        for mine, theirs in self.pairs(student, teacher):
            there, here = teacher.num_heads[theirs], student.num_heads[mine]
            if self.heads == "match" and here != there:
                raise ValueError(
                    f"AttentionKL: layer {mine} of the student has {here} heads, layer {theirs} of "
                    f"the teacher {there}; use heads=mean, or equal numbers of heads"
                )

    def __call__(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        mask: Tensor,
        project: Projection | None = None,
    ) -> Tensor:
        """See `attention_kl`; sum over the pairs of layers."""
        distance = partial(attention_kl, heads=self.heads)
        return sum_over_pairs(distance, student, teacher, mask, project)
