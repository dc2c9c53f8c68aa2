"""Direct preference optimisation: a model learns from pairs of a better and a worse answer.

Source: Rafailov et al. 2023, arXiv:2305.18290, equation (7); label smoothing: Mitchell 2023, "A
note on DPO with noisy preferences".
"""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mobilellm.distillation.losses.loss import Structure
from mobilellm.distillation.losses.schedule import Scheduled, check_scheduled
from mobilellm.ranges import Range, check_fields, check_value

BETA = Range(above=0, cap=1e6)
SMOOTHING = Range(at_least=0, below=0.5, remedy="0 trusts all preferences")


def direct_preference(
    chosen: Float[Tensor, "*pairs"],
    rejected: Float[Tensor, "*pairs"],
    reference_chosen: Float[Tensor, "*pairs"],
    reference_rejected: Float[Tensor, "*pairs"],
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Float[Tensor, "*pairs"]:
    """The loss of each pair in nats; ln 2 if the model is its reference.

    It is -log σ(β · ((log π(chosen) - log ref(chosen)) - (log π(rejected) - log ref(rejected)))),
    where π and ref are the probabilities of whole answers.

    Args:
        chosen: log probabilities of the better answers (...), of the model that is trained.
        rejected: those of the worse answers (...).
        reference_chosen: log probabilities of the better answers by the reference (...).
        reference_rejected: those of the worse answers (...).
        beta: β, how strongly the model is held to the reference; the paper uses 0.1 to 0.5.
        label_smoothing: share of the pairs that are assumed to be the wrong way round.
    """
    margin = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
    if label_smoothing == 0:
        return -F.logsigmoid(margin)
    smoothing = label_smoothing
    return -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)


@dataclass(frozen=True, kw_only=True)
class DirectPreference:
    """Direct preference optimisation (DPO), with the teacher as the reference.

    Raises:
        ValueError: a number is out of range.
    """

    weight: Scheduled = 1.0
    """Factor in the training loss."""
    beta: float = 0.1
    """How strongly the model is held to the reference."""
    label_smoothing: float = 0.0
    """Share of the pairs that are assumed to be the wrong way round."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_fields(self)
        check_scheduled("weight", self.weight)
        check_value("beta", self.beta, float, BETA)
        check_value("label_smoothing", self.label_smoothing, float, SMOOTHING)

    def __call__(
        self, chosen: Tensor, rejected: Tensor, reference: Float[Tensor, "*pairs 2"]
    ) -> Float[Tensor, "*pairs"]:
        """The loss of each pair in nats.

        Args:
            chosen: log probabilities of the better answers (...).
            rejected: those of the worse answers (...).
            reference: both by the reference (..., 2).
        """
        return direct_preference(
            chosen, rejected, reference[..., 0], reference[..., 1],
            beta=self.beta, label_smoothing=self.label_smoothing,
        )  # fmt: skip

    def check(self, student: Structure, teacher: Structure) -> None:
        """Check that the teacher can be the reference.

        Raises:
            ValueError: the vocabularies differ, or the teacher is a logit store.
        """
        if student.vocab_size != teacher.vocab_size:
            raise ValueError(
                f"DirectPreference: the model has vocab_size={student.vocab_size}, the reference "
                f"{teacher.vocab_size}; both need the same tokenizer"
            )
        if not teacher.num_layers:
            raise ValueError(
                "DirectPreference needs the probabilities of all tokens, which a logit store does "
                "not have; give the folder of a model as distillation.teacher"
            )
