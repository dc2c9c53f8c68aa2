"""Two kinds of distillation losses: on logits, and on hidden states or attention weights.

A `LogitLoss` compares next-token distributions; it is called for one chunk of tokens at a time. A
`StateLoss` compares captured tensors, one per application of a block: a shared block counts as
often as it is applied. All values are means over unmasked tokens, which do not depend on the batch
size or on the chunks. The teacher receives no gradient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mobilellm.distillation.losses.layer_map import UNIFORM, LayerMap
from mobilellm.distillation.losses.schedule import Scheduled, check_scheduled, end_values, value_at
from mobilellm.distillation.losses.targets import RESTS, Target, check_mask
from mobilellm.ranges import check_fields

Projection = Callable[[int, Tensor], Tensor]
"""(index of the pair, states (batch, seq, student width)) -> (batch, seq, teacher width)."""


@dataclass(frozen=True)
class Structure:
    """Sizes of a model, by which losses are checked before any weights are read."""

    num_layers: int
    """Number of applications of blocks; 0 for a logit store."""
    hidden_size: int
    """Width of the residual stream."""
    num_heads: tuple[int, ...]
    """Number of query heads of each application."""
    vocab_size: int
    captures: tuple[str, ...] = ("embedding", "hidden_states", "attention", "feed_forward")
    """The names of the tensors that the model can capture."""
    temperature: float | None = None
    """The only temperature at which its probabilities are known; None if any temperature is."""
    is_sampled: bool = False
    """Whether its probabilities are random samples of tokens."""


@dataclass(frozen=True, kw_only=True)
class LogitLoss:
    """A loss on next-token distributions.

    Raises:
        ValueError: the weight or the temperature is out of range, or `rest` is unknown.
    """

    LINEAR: ClassVar[bool] = False
    """Whether the gradient is linear in the teacher's probabilities, so that samples suffice."""

    weight: Scheduled = 1.0
    """Factor in the training loss."""
    temperature: Scheduled = 1.0
    """The logits of both models are divided by it; the loss is multiplied by its square."""
    rest: str = "bucket"
    """How a `TopK` of the teacher is compared: `bucket` (all other tokens are one class) or
    `renormalize` (probabilities among the k tokens)."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_fields(self)
        check_scheduled("weight", self.weight)
        check_scheduled("temperature", self.temperature, positive=True)
        if self.rest not in RESTS:
            raise ValueError(f"rest={self.rest!r} is not known; use one of {', '.join(RESTS)}")

    def __call__(
        self, student_logits: Tensor, teacher: Target, mask: Tensor, progress: float = 1.0
    ) -> Tensor:
        """The mean over unmasked tokens, in nats × temperature².

        Args:
            student_logits: (tokens, vocab).
            teacher: the teacher's logits of the same shape, or its `TopK`.
            mask: bool (tokens,); True: the token counts.
            progress: used share of the training budget, for a scheduled temperature.
        """
        return self.divergence(
            student_logits, teacher, mask, temperature=value_at(self.temperature, progress),
            rest=self.rest,
        )  # fmt: skip

    def check(self, student: Structure, teacher: Structure) -> None:
        """Check that the two models can be compared throughout the run.

        Raises:
            ValueError: the vocabularies differ, or the temperature of the loss differs from that of
                the logit store at some step.
        """
        if student.vocab_size != teacher.vocab_size:
            raise ValueError(
                f"{type(self).__name__}: the student has vocab_size={student.vocab_size}, the "
                f"teacher {teacher.vocab_size}; both need the same tokenizer"
            )
        if teacher.is_sampled and (not self.LINEAR or self.rest != "bucket"):
            raise ValueError(
                f"{type(self).__name__} with rest={self.rest} is biased on a logit store of "
                "sampled tokens; use forward_kl or mobilellm with rest=bucket, or a store of "
                "method=top_k"
            )
        known = teacher.temperature
        if known is None or self.rest == "renormalize":
            return
        others = [value for value in end_values(self.temperature) if value != known]
        if others:
            raise ValueError(
                f"{type(self).__name__}: the logit store was made at temperature {known:g}, and "
                f"the probability of all other tokens at {others[0]:g} is not known; use "
                f"temperature={known:g} throughout, rest=renormalize, or a store made at that "
                "temperature"
            )

    def divergence(
        self, student_logits: Tensor, teacher: Target, mask: Tensor, *, temperature: float,
        rest: str,
    ) -> Tensor:  # fmt: skip
        """The loss at one temperature."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class StateLoss:
    """A loss on tensors that are captured in mapped layers of student and teacher.

    Raises:
        ValueError: the weight is below 0, the loss cannot compare the captured tensors, or a layer
            map is given for the embedding.
    """

    CAPTURES: ClassVar[tuple[str, ...]] = ("hidden_states", "feed_forward", "embedding")
    """Names of the captured tensors that the loss can compare."""

    weight: Scheduled = 1.0
    """Factor in the training loss."""
    capture: str = "hidden_states"
    """Captured tensors to compare: `hidden_states`, `feed_forward`, `embedding` or `attention`."""
    layers: LayerMap = UNIFORM
    """Map of the student's layers to the teacher's."""
    projection: bool = False
    """Train a linear map from the student's width to the teacher's for each pair of layers."""

    def __post_init__(self) -> None:
        """Check the choices."""
        check_fields(self)
        check_scheduled("weight", self.weight)
        if self.capture not in self.CAPTURES:
            raise ValueError(
                f"capture={self.capture!r} cannot be compared by {type(self).__name__}; use one of "
                f"{', '.join(self.CAPTURES)}"
            )
        if self.capture == "embedding" and self.layers != UNIFORM:
            raise ValueError(
                f"layers={self.layers} has no effect with capture=embedding, which is one tensor "
                "per model; leave layers out"
            )

    def pairs(self, student: Structure, teacher: Structure) -> tuple[tuple[int, int], ...]:
        """Indices of the captured tensors that are compared: (of the student, of the teacher)."""
        if self.capture == "embedding":
            return ((0, 0),)
        return self.layers.pairs(student.num_layers, teacher.num_layers)

    def check(self, student: Structure, teacher: Structure) -> None:
        """Check that the two models can be compared.

        Raises:
            ValueError: the teacher cannot capture these tensors, layers are out of range, or the
                widths differ without `projection`.
        """
        if self.capture not in teacher.captures:
            raise ValueError(
                f"{type(self).__name__} needs the teacher's {self.capture}, but this teacher has "
                f"{', '.join(teacher.captures) or 'only probabilities'}; use another loss or "
                "another teacher"
            )
        self.pairs(student, teacher)
        self.check_widths(student, teacher)

    def check_widths(self, student: Structure, teacher: Structure) -> None:
        """Check the widths: they must be equal unless there is a projection."""
        if student.hidden_size != teacher.hidden_size and not self.projection:
            raise ValueError(
                f"{type(self).__name__}: the student has hidden_size={student.hidden_size}, the "
                f"teacher {teacher.hidden_size}; set projection=true, or use equal widths"
            )

    def __call__(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        mask: Tensor,
        project: Projection | None = None,
    ) -> Tensor:
        """Sum over the pairs of layers; each term is a mean over unmasked tokens.

        Args:
            student: one captured tensor per pair of layers.
            teacher: likewise.
            mask: bool (batch, seq); True: the token counts.
            project: applies the trained maps; None without `projection`.
        """
        raise NotImplementedError


def masked_mean(
    values: Float[Tensor, "*tokens"], mask: Bool[Tensor, "*tokens"]
) -> Float[Tensor, ""]:
    """The mean of `values` over the entries whose `mask` is True; 0 if there are none.

    Masked values are ignored even if they are not finite.

    Args:
        values: (...).
        mask: bool, the same shape.
    """
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def masked_states(
    states: Float[Tensor, "*tokens width"], mask: Bool[Tensor, "*tokens"]
) -> Float[Tensor, "*tokens width"]:
    """States (..., width) in float32 or more, with 0 for masked tokens, which may be invalid."""
    dtype = torch.promote_types(states.dtype, torch.float32)
    return states.masked_fill(~mask.unsqueeze(-1), 0.0).to(dtype)


def check_states(student: Tensor, teacher: Tensor, mask: Tensor) -> None:
    """Check captured tensors (..., width) before they are compared.

    Raises:
        ValueError, TypeError: shapes do not fit, or the mask is not bool.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"the teacher's states have shape {tuple(teacher.shape)}, the student's "
            f"{tuple(student.shape)}; both need the same tokens and width; set projection=true "
            "if the widths differ"
        )
    check_mask(mask, student.shape[:-1])


def sum_over_pairs(
    distance: Callable[[Tensor, Tensor, Tensor], Tensor],
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    mask: Tensor,
    project: Projection | None,
) -> Tensor:
    """Sum of `distance(student, teacher, mask)` over the pairs of captured tensors."""
    total = mask.new_zeros((), dtype=torch.float32)
    for index, (own, target) in enumerate(zip(student, teacher, strict=True)):
        # Masked first, because the gradient of the projection must exclude masked tokens.
        states = own if project is None else project(index, own.masked_fill(~mask[..., None], 0))
        total = total + distance(states, target, mask)
    return total
