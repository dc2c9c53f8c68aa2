"""Generalised Jensen-Shannon divergence."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mobilellm.distillation.losses.loss import LogitLoss, masked_mean
from mobilellm.distillation.losses.targets import Target, log_probability_pair


def jensen_shannon(
    student_logits: Float[Tensor, "*tokens vocab"],
    teacher_logits: Target,
    mask: Shaped[Tensor, "*mask"],
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    rest: str = "bucket",
) -> Float[Tensor, ""]:
    """β KL(p_T ‖ m) + (1 − β) KL(p_S ‖ m) with the mixture m = β p_T + (1 − β) p_S.

    `beta` is the share of the teacher in the mixture, above 0 and below 1. The other arguments,
    averaging, unit and errors are those of `forward_kl`. The value is 0 if student and teacher are
    equal. With β = 0.5 it is symmetric in student and teacher, and at most log 2. Divided by β, it
    tends to KL(p_T ‖ p_S) as β → 0; divided by 1 − β, to KL(p_S ‖ p_T) as β → 1.

    Raises:
        ValueError: `beta` is out of range.

    Source: Agarwal et al. 2023, arXiv:2306.13649, section 2.
    """
    _check_beta(beta)
    student, teacher = log_probability_pair(
        student_logits, teacher_logits, temperature=temperature, rest=rest, mask=mask
    )
    with torch.no_grad():
        # log m − log p_T, computed from the difference, so that it is accurate for equal models.
        # No gradient is needed: through the logarithms it is that of Σ m = Σ p_S = 1, which is 0.
        log_ratio = student - teacher
        mixture = torch.logaddexp(
            log_ratio + math.log1p(-beta), log_ratio.new_full((), math.log(beta))
        )
        teacher_part = (teacher.exp() * mixture).sum(-1)
        log_ratio -= mixture
    student_part = (student.exp() * log_ratio).sum(-1)
    values = (1 - beta) * student_part - beta * teacher_part
    return masked_mean(values, mask) * temperature**2


def _check_beta(beta: float) -> None:
    if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 < beta < 1:
        raise ValueError(
            f"beta={beta} must be above 0 and below 1; for the limits use forward_kl or reverse_kl"
        )


@dataclass(frozen=True, kw_only=True)
class JensenShannon(LogitLoss):
    """`jensen_shannon`: bounded, and between forward KL (β → 0) and reverse KL (β → 1).

    Raises:
        ValueError: `beta` is out of range.
    """

    beta: float = 0.5
    """Share of the teacher in the mixture."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        _check_beta(self.beta)

    def divergence(
        self, student_logits: Tensor, teacher: Target, mask: Tensor, *, temperature: float,
        rest: str,
    ) -> Tensor:  # fmt: skip
        """See `jensen_shannon`."""
        return jensen_shannon(
            student_logits, teacher, mask, beta=self.beta, temperature=temperature, rest=rest
        )
