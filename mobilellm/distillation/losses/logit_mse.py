"""Mean squared error of the logits."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import mse_loss

from mobilellm.distillation.losses.loss import LogitLoss, Structure, masked_mean
from mobilellm.distillation.losses.targets import (
    Target,
    TopK,
    check_mask,
    check_same_shape,
    mask_gradient,
)


def logit_mse(
    student_logits: Float[Tensor, "*tokens vocab"],
    teacher_logits: Target,
    mask: Shaped[Tensor, "*mask"],
) -> Float[Tensor, ""]:
    """(z_S − z_T)², mean over the vocabulary and the unmasked tokens.

    There is no temperature: dividing the logits by it and multiplying the loss by its square would
    cancel.

    Args:
        student_logits: (..., vocab).
        teacher_logits: the same shape; they receive no gradient.
        mask: bool (...); True: the token counts.

    Returns:
        A scalar, in nats²; 0 if student and teacher are equal.

    Raises:
        ValueError: shapes do not fit, or the teacher gives a `TopK`.
        TypeError: the mask is not bool.

    Source: `alpha_mse` of DistilBERT's training, Sanh et al. 2019, arXiv:1910.01108.
    """
    if isinstance(teacher_logits, TopK):
        raise ValueError(
            "logit_mse needs all logits of the teacher, but got its "
            f"{teacher_logits.indices.shape[-1]} highest probabilities; use a teacher in memory "
            "without top_k, or another loss"
        )
    check_same_shape(student_logits, teacher_logits)
    check_mask(mask, student_logits.shape[:-1])
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    student = mask_gradient(student_logits, mask).to(dtype)
    return masked_mean(
        mse_loss(student, teacher_logits.detach().to(dtype), reduction="none").mean(-1), mask
    )


@dataclass(frozen=True, kw_only=True)
class LogitMSE(LogitLoss):
    """`logit_mse`; the teacher must provide all logits.

    Raises:
        ValueError: the temperature is not 1, which would have no effect.
    """

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        if self.temperature != 1:
            raise ValueError(
                f"temperature={self.temperature} would have no effect on LogitMSE, in which "
                "it cancels; use temperature=1.0"
            )

    def check(self, student: Structure, teacher: Structure) -> None:
        """Check that the vocabularies are equal, and that the teacher is not a logit store.

        Raises:
            ValueError: they differ, or it is one.
        """
        if teacher.num_layers == 0:
            raise ValueError(
                "LogitMSE needs all logits of the teacher, but a logit store has the most likely "
                "tokens only; use a teacher in memory without top_k, or another loss"
            )
        super().check(student, teacher)

    def divergence(
        self, student_logits: Tensor, teacher: Target, mask: Tensor, *, temperature: float,
        rest: str,
    ) -> Tensor:  # fmt: skip
        """See `logit_mse`."""
        return logit_mse(student_logits, teacher, mask)
