"""Mean squared error of hidden states."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import mse_loss

from mobilellm.distillation.losses.loss import (
    Projection,
    StateLoss,
    check_states,
    masked_mean,
    masked_states,
    sum_over_pairs,
)


def hidden_state_mse(
    student: Float[Tensor, "*tokens width"],
    teacher: Float[Tensor, "*teacher"],
    mask: Shaped[Tensor, "*mask"],
) -> Float[Tensor, ""]:
    """(h_S − h_T)², mean over the width and the unmasked tokens.

    Args:
        student: (..., width).
        teacher: the same shape; it receives no gradient.
        mask: bool (...); True: the token counts.

    Returns:
        A scalar; 0 if student and teacher are equal.

    Raises:
        ValueError, TypeError: shapes do not fit, or the mask is not bool.

    Source: Edalati et al. 2022, KnGPT-2, arXiv:2110.08152: embedding and feed-forward outputs.
    """
    check_states(student, teacher, mask)
    student, teacher = masked_states(student, mask), masked_states(teacher.detach(), mask)
    return masked_mean(mse_loss(student, teacher, reduction="none").mean(-1), mask)


@dataclass(frozen=True, kw_only=True)
class HiddenStateMSE(StateLoss):
    """`hidden_state_mse` of mapped layers: it compares the direction and the norm of states."""

    def __call__(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        mask: Tensor,
        project: Projection | None = None,
    ) -> Tensor:
        """Sum of `hidden_state_mse` over the pairs of layers."""
        return sum_over_pairs(hidden_state_mse, student, teacher, mask, project)
