"""Generalised Jensen-Shannon divergence: how far both models are from a mixture of the two."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mobilellm.distillation.losses.loss import LogitLoss, masked_mean
from mobilellm.distillation.losses.targets import Target, log_probability_pair


def jensen_shannon(
    student_logits: Tensor,
    teacher_logits: Target,
    mask: Tensor,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    rest: str = "bucket",
) -> Tensor:
    """β KL(p_T ‖ m) + (1 − β) KL(p_S ‖ m) with the mixture m = β p_T + (1 − β) p_S.

    With β = 0.5 student and teacher may be exchanged, and the value is at most log 2. Divided by β,
    it tends to KL(p_T ‖ p_S) as β → 0; divided by 1 − β, to KL(p_S ‖ p_T) as β → 1.

    Args:
        student_logits: (..., vocab).
        teacher_logits: the same shape, or the teacher's `TopK`; no gradient goes there.
        mask: bool (...), True = counts.
        beta: share of the teacher in the mixture, between 0 and 1.
        temperature: both models' logits are divided by it.
        rest: of a `TopK`: see `mobilellm.distillation.losses.targets`.

    Returns:
        A scalar, mean over unmasked tokens, in nats × temperature²; 0 where student and teacher
        are equal.

    Raises:
        ValueError, TypeError: `beta` out of range; as `log_probability_pair`.

    Source: Agarwal et al. 2023, arXiv:2306.13649, section 2.
    """
    _check_beta(beta)
    student, teacher = log_probability_pair(
        student_logits, teacher_logits, temperature=temperature, rest=rest, mask=mask
    )
    with torch.no_grad():
        # log m − log p_T. Made of the difference alone, it is exact near 0, where models are equal.
        # Logarithms can do without gradients: theirs would be that of Σ m = Σ p_S = 1, which is 0.
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
            f"beta={beta} must lie between 0 and 1, both excluded; at the ends use forward_kl or "
            "reverse_kl"
        )


@dataclass(frozen=True, kw_only=True)
class JensenShannon(LogitLoss):
    """Between forward KL (β → 0) and reverse KL (β → 1), and bounded.

    Raises:
        ValueError: `beta` out of range.
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
