"""Cross entropy of the student on the teacher's probabilities."""

from dataclasses import dataclass

from torch import Tensor

from mobilellm.distillation.losses.loss import LogitLoss, masked_mean
from mobilellm.distillation.losses.targets import Target, log_probability_pair


def teacher_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Target,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    rest: str = "bucket",
) -> Tensor:
    """−Σ p_T log p_S, mean over unmasked tokens, in nats × temperature².

    Its gradient is that of `forward_kl`, which is why the factor temperature² is the same; its
    value is higher by the teacher's entropy × temperature². Of a `TopK`, all of this is meant on
    the classes that are compared: k + 1 with `bucket`, k with `renormalize`.

    Args:
        student_logits: (..., vocab).
        teacher_logits: the same shape, or the teacher's `TopK`; no gradient goes there.
        mask: bool (...), True = counts.
        temperature: both models' logits are divided by it.
        rest: of a `TopK`: see `mobilellm.distillation.losses.targets`.

    Returns:
        A scalar; the teacher's entropy × temperature² where student and teacher are equal.

    Raises:
        ValueError, TypeError: as `log_probability_pair`.

    Source: Liu et al. 2024, MobileLLM, arXiv:2402.14905, table 16 (which names no temperature).
    """
    student, teacher = log_probability_pair(
        student_logits, teacher_logits, temperature=temperature, rest=rest, mask=mask
    )
    return masked_mean(-(teacher.exp() * student).sum(-1), mask) * temperature**2


@dataclass(frozen=True, kw_only=True)
class TeacherCrossEntropy(LogitLoss):
    """Forward KL plus the teacher's entropy, which no student can change."""

    def divergence(
        self, student_logits: Tensor, teacher: Target, mask: Tensor, *, temperature: float,
        rest: str,
    ) -> Tensor:  # fmt: skip
        """See `teacher_cross_entropy`."""
        return teacher_cross_entropy(
            student_logits, teacher, mask, temperature=temperature, rest=rest
        )
