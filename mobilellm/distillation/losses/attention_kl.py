"""Kullback-Leibler divergence of attention maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
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


def attention_kl(
    student: Float[Tensor, "batch heads queries keys"],
    teacher: Float[Tensor, "batch teacher_heads teacher_queries teacher_keys"],
    mask: Shaped[Tensor, "*mask"],
    *,
    heads: str = "match",
) -> Float[Tensor, ""]:
    """KL(teacher ‖ student) = Σ_keys p_T (log p_T − log p_S) of attention weights, in nats.

    The result is the mean over heads and unmasked queries. Keys with zero attention weight, such as
    later tokens, add 0 to the value and the gradient. A weight of the student that was rounded to 0
    counts as the smallest normal number of its type.

    Args:
        student: (batch, heads, queries, keys); each row is a distribution.
        teacher: likewise; it receives no gradient.
        mask: bool (batch, queries); True: the query counts.
        heads: `match`: compare head by head, which requires equal numbers of heads; `mean`:
            compare the means over the heads of each model.

    Returns:
        A scalar; 0 if student and teacher are equal.

    Raises:
        ValueError, TypeError: shapes do not fit, `heads` is unknown, or the mask is not bool.

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
    # With clamped logarithms, 0 · log 0 is 0 for both models.
    values = theirs * (theirs.clamp(min=least).log() - mine.clamp(min=least).log())
    return masked_mean(values.sum(-1).mean(1), mask)


def _rows(weights: Tensor, mask: Tensor, heads: str) -> Tensor:
    """The weights in float32 or more, with 0 for masked queries, whose weights may be invalid."""
    weights = weights.masked_fill(~mask[:, None, :, None], 0.0)
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
    return weights.mean(1, keepdim=True) if heads == "mean" else weights


def _check_heads(heads: str) -> None:
    if heads not in HEADS:
        raise ValueError(f"heads={heads!r} is not known; use one of {', '.join(HEADS)}")


@dataclass(frozen=True, kw_only=True)
class AttentionKL(StateLoss):
    """`attention_kl` of mapped layers: the student learns to attend to the same tokens.

    Raises:
        ValueError: `heads` is unknown, or `projection` is set, which attention maps cannot use.
    """

    CAPTURES: ClassVar[tuple[str, ...]] = ("attention",)

    capture: str = "attention"
    """The captured tensors that are compared."""
    heads: str = "match"
    """See `attention_kl`."""

    def __post_init__(self) -> None:
        """Check the choices."""
        super().__post_init__()
        _check_heads(self.heads)
        if self.projection:
            raise ValueError(
                "projection=true maps hidden states, not attention; use projection=false, and "
                "heads=mean if the models have different numbers of heads"
            )

    def check_widths(self, student: Structure, teacher: Structure) -> None:
        """Check that the numbers of heads are equal, if heads are compared one by one."""
        for i, j in self.pairs(student, teacher):
            own, target = student.num_heads[i], teacher.num_heads[j]
            if self.heads == "match" and own != target:
                raise ValueError(
                    f"AttentionKL: layer {i} of the student has {own} heads, layer {j} of the "
                    f"teacher {target}; use heads=mean, or equal numbers of heads"
                )

    def __call__(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        mask: Tensor,
        project: Projection | None = None,
    ) -> Tensor:
        """Sum of `attention_kl` over the pairs of layers."""
        distance = partial(attention_kl, heads=self.heads)
        return sum_over_pairs(distance, student, teacher, mask, project)
