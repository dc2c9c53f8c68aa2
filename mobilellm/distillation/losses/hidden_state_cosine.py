"""Angle between hidden states."""

from collections.abc import Sequence
from dataclasses import dataclass

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


def hidden_state_cosine(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """1 − cos(h_S, h_T), mean over the unmasked tokens.

    Args:
        student: (..., width).
        teacher: the same shape; no gradient goes there.
        mask: bool (...), True = counts.

    Returns:
        A scalar; 0 where the states have one direction, 2 where they are opposed. A state that is
        zero has no direction and counts as 1, with no gradient.

    Raises:
        ValueError, TypeError: shapes that do not fit, a mask that is not bool.

    Source: Sanh et al. 2019, DistilBERT, arXiv:1910.01108, section 2: of the last layer.
    """
    check_states(student, teacher, mask)
    student, teacher = compared_states(student, mask), compared_states(teacher.detach(), mask)
    return masked_mean(1 - cosine_similarity(student, teacher, dim=-1), mask)


@dataclass(frozen=True, kw_only=True)
class HiddenStateCosine(StateLoss):
    """The student's states get the teacher's direction; their length stays free."""

    def __call__(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        mask: Tensor,
        project: Projection | None = None,
    ) -> Tensor:
        """See `hidden_state_cosine`; sum over the pairs of layers."""
        return sum_over_pairs(hidden_state_cosine, student, teacher, mask, project)
