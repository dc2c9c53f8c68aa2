"""Cosine distance of hidden states."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mobilellm.distillation.losses.loss import (
    Projection,
    StateLoss,
    check_states,
    compared_states,
    masked_mean,
    sum_over_pairs,
)


def hidden_state_cosine(
    student: Float[Tensor, "*tokens width"],
    teacher: Float[Tensor, "*teacher"],
    mask: Shaped[Tensor, "*mask"],
) -> Float[Tensor, ""]:
    """1 − cos(h_S, h_T), mean over the unmasked tokens.

    Args:
        student: (..., width).
        teacher: the same shape; it receives no gradient.
        mask: bool (...); True: the token counts.

    Returns:
        A scalar; 0 if the states have the same direction, 2 if they are opposite. A token with a
        zero state counts as 1 and has no gradient.

    Raises:
        ValueError, TypeError: shapes do not fit, or the mask is not bool.

    Source: Sanh et al. 2019, DistilBERT, arXiv:1910.01108, section 2, for the last layer.
    """
    check_states(student, teacher, mask)
    student, teacher = compared_states(student, mask), compared_states(teacher.detach(), mask)
    return masked_mean(1 - cosine_similarity(student, teacher, dim=-1), mask)


@dataclass(frozen=True, kw_only=True)
class HiddenStateCosine(StateLoss):
    """The student's states approach the teacher's in direction; their norm is free."""

    def __call__(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        mask: Tensor,
        project: Projection | None = None,
    ) -> Tensor:
        """See `hidden_state_cosine`; sum over the pairs of layers."""
        return sum_over_pairs(hidden_state_cosine, student, teacher, mask, project)
