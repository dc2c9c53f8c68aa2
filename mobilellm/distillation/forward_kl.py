"""Kullback-Leibler divergence of the student from the teacher: KL(teacher ‖ student)."""

from dataclasses import dataclass

from torch import Tensor

from mobilellm.distillation.loss import LogitLoss, masked_mean
from mobilellm.distillation.targets import Target, log_probability_pair


def forward_kl(
    student_logits: Tensor,
    teacher_logits: Target,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    rest: str = "bucket",
) -> Tensor:
    """Σ p_T (log p_T − log p_S), mean over unmasked tokens, in nats × temperature².

    Args:
        student_logits: (..., vocab).
        teacher_logits: the same shape, or the teacher's `TopK`; no gradient goes there.
        mask: bool (...), True = counts.
        temperature: both models' logits are divided by it.
        rest: of a `TopK`: see `mobilellm.distillation.targets`.

    Returns:
        A scalar; 0 where student and teacher are equal.

    Raises:
        ValueError, TypeError: as `log_probability_pair`.

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2.
    """
    student, teacher = log_probability_pair(
        student_logits, teacher_logits, temperature=temperature, rest=rest, mask=mask
    )
    return masked_mean((teacher.exp() * (teacher - student)).sum(-1), mask) * temperature**2


@dataclass(frozen=True, kw_only=True)
class ForwardKL(LogitLoss):
    """KL(teacher ‖ student): the student covers all that the teacher finds likely."""

    def divergence(
        self, student_logits: Tensor, teacher: Target, mask: Tensor, *, temperature: float,
        rest: str,
    ) -> Tensor:  # fmt: skip
        """See `forward_kl`."""
        return forward_kl(student_logits, teacher, mask, temperature=temperature, rest=rest)
