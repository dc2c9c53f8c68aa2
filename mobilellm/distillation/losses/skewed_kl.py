"""Skewed Kullback-Leibler divergences."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mobilellm.distillation.losses.loss import LogitLoss, masked_mean
from mobilellm.distillation.losses.targets import Target, log_probability_pair


def skewed_kl(
    student_logits: Float[Tensor, "*tokens vocab"],
    teacher_logits: Target,
    mask: Shaped[Tensor, "*mask"],
    *,
    alpha: float = 0.1,
    reverse: bool = False,
    temperature: float = 1.0,
    rest: str = "bucket",
) -> Float[Tensor, ""]:
    """KL(p_T ‖ α p_T + (1 − α) p_S), or in reverse KL(p_S ‖ α p_S + (1 − α) p_T).

    The second distribution is mixed with the first, so that it is nowhere smaller than α times the
    first: each token's divergence is at most −log α, and the gradient stays bounded where one model
    excludes a token. The other arguments, averaging, unit and errors are those of `forward_kl`. The
    value is 0 if student and teacher are equal, and tends to the plain divergence as α → 0.

    Args:
        student_logits: (..., vocab).
        teacher_logits: the same shape, or the teacher's `TopK`.
        mask: bool (...); True: the token counts.
        alpha: share of the first distribution in the mixture, above 0 and below 1.
        reverse: whether the first distribution is the student's.
        temperature: the logits of both models are divided by it.
        rest: how a `TopK` is compared.

    Raises:
        ValueError: `alpha` is out of range.

    Source: Ko et al. 2024, DistiLLM, arXiv:2402.03898, section 3.1.
    """
    _check_alpha(alpha)
    student, teacher = log_probability_pair(
        student_logits, teacher_logits, temperature=temperature, rest=rest, mask=mask
    )
    first, second = (student, teacher) if reverse else (teacher, student)
    # log m − log p, computed from the difference, so that it is accurate for equal models.
    log_ratio = second - first
    mixture = torch.logaddexp(
        log_ratio + math.log1p(-alpha), log_ratio.new_full((), math.log(alpha))
    )
    return masked_mean(-(first.exp() * mixture).sum(-1), mask) * temperature**2


def _check_alpha(alpha: float) -> None:
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1:
        raise ValueError(
            f"alpha={alpha} must be above 0 and below 1; for the limit 0 use forward_kl or "
            "reverse_kl"
        )


@dataclass(frozen=True, kw_only=True)
class SkewedKL(LogitLoss):
    """`skewed_kl`: a bounded divergence near forward KL, or with `reverse` near reverse KL.

    Raises:
        ValueError: `alpha` is out of range.
    """

    alpha: float = 0.1
    """Share of the first distribution in the mixture that takes the place of the second."""
    reverse: bool = False
    """Whether the student's distribution is the first one."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        _check_alpha(self.alpha)

    def divergence(
        self, student_logits: Tensor, teacher: Target, mask: Tensor, *, temperature: float,
        rest: str,
    ) -> Tensor:  # fmt: skip
        """See `skewed_kl`."""
        return skewed_kl(
            student_logits, teacher, mask, alpha=self.alpha, reverse=self.reverse,
            temperature=temperature, rest=rest,
        )  # fmt: skip
