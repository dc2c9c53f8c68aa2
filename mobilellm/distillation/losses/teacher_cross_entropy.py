"""Cross entropy of the student on the teacher's probabilities."""

from dataclasses import dataclass

from jaxtyping import Float, Shaped
from torch import Tensor

from mobilellm.distillation.losses.loss import LogitLoss, masked_mean
from mobilellm.distillation.losses.targets import Target, log_probability_pair


def teacher_cross_entropy(
    student_logits: Float[Tensor, "*tokens vocab"],
    teacher_logits: Target,
    mask: Shaped[Tensor, "*mask"],
    *,
    temperature: float = 1.0,
    rest: str = "bucket",
) -> Float[Tensor, ""]:
    """−Σ p_T log p_S, in nats × temperature².

    Arguments, averaging, errors and gradient are those of `forward_kl`; the value is higher by the
    teacher's entropy × temperature². With a `TopK`, this holds for the classes that are compared:
    k + 1 with `bucket`, k with `renormalize`.

    Source: Liu et al. 2024, MobileLLM, arXiv:2402.14905, table 16 (which names no temperature).
    """
    student, teacher = log_probability_pair(
        student_logits, teacher_logits, temperature=temperature, rest=rest, mask=mask
    )
    return masked_mean(-(teacher.exp() * student).sum(-1), mask) * temperature**2


@dataclass(frozen=True, kw_only=True)
class TeacherCrossEntropy(LogitLoss):
    """`teacher_cross_entropy`: trains like `ForwardKL`, and logs the cross entropy instead."""

    LINEAR = True

    def divergence(
        self, student_logits: Tensor, teacher: Target, mask: Tensor, *, temperature: float,
        rest: str,
    ) -> Tensor:  # fmt: skip
        """See `teacher_cross_entropy`."""
        return teacher_cross_entropy(
            student_logits, teacher, mask, temperature=temperature, rest=rest
        )
