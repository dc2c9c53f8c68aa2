"""Reverse Kullback-Leibler divergence, from the student to the teacher."""

from dataclasses import dataclass

from jaxtyping import Float, Shaped
from torch import Tensor

from mobilellm.distillation.losses.loss import LogitLoss, masked_mean
from mobilellm.distillation.losses.targets import Target, log_probability_pair


def reverse_kl(
    student_logits: Float[Tensor, "*tokens vocab"],
    teacher_logits: Target,
    mask: Shaped[Tensor, "*mask"],
    *,
    temperature: float = 1.0,
    rest: str = "bucket",
) -> Float[Tensor, ""]:
    """KL(student ‖ teacher) = Σ p_S (log p_S − log p_T), in nats × temperature².

    Arguments, averaging and errors are those of `forward_kl`. The value is 0 if student and teacher
    are equal.

    Source: Gu et al. 2023, MiniLLM, arXiv:2306.08543; here on the given text (teacher forcing), not
    on sampled text.
    """
    student, teacher = log_probability_pair(
        student_logits, teacher_logits, temperature=temperature, rest=rest, mask=mask
    )
    # Detached: the gradient through the logarithms is that of Σ p_S = 1, which is 0.
    log_ratio = (student - teacher).detach()
    return masked_mean((student.exp() * log_ratio).sum(-1), mask) * temperature**2


@dataclass(frozen=True, kw_only=True)
class ReverseKL(LogitLoss):
    """`reverse_kl`: the student may assign probability only to tokens likely for the teacher."""

    def divergence(
        self, student_logits: Tensor, teacher: Target, mask: Tensor, *, temperature: float,
        rest: str,
    ) -> Tensor:  # fmt: skip
        """See `reverse_kl`."""
        return reverse_kl(student_logits, teacher, mask, temperature=temperature, rest=rest)
