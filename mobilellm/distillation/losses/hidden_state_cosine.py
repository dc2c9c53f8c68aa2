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
    masked_mean,
    masked_states,
    sum_over_pairs,
)


def hidden_state_cosine(
    student: Float[Tensor, "*tokens width"],
    teacher: Float[Tensor, "*teacher"],
    mask: Shaped[Tensor, "*mask"],
) -> Float[Tensor, ""]:
    """1 − cos(h_S, h_T), mean over the unmasked tokens.

    Arguments and errors are those of `hidden_state_mse`. The value is 0 if the states have the same
    direction and 2 if they are opposite. A token with a zero state counts as 1 and has no gradient.

    Source: Sanh et al. 2019, DistilBERT, arXiv:1910.01108, section 2, for the last layer.
    """
    check_states(student, teacher, mask)
    student, teacher = masked_states(student, mask), masked_states(teacher.detach(), mask)
    return masked_mean(1 - cosine_similarity(student, teacher, dim=-1), mask)


@dataclass(frozen=True, kw_only=True)
class HiddenStateCosine(StateLoss):
    """`hidden_state_cosine` of mapped layers: it compares the direction of states, not the norm."""

    def __call__(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        mask: Tensor,
        project: Projection | None = None,
    ) -> Tensor:
        """Sum of `hidden_state_cosine` over the pairs of layers."""
        return sum_over_pairs(hidden_state_cosine, student, teacher, mask, project)
