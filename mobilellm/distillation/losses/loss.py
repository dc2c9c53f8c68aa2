"""What every distillation loss is: a weight, and a pure function of student, teacher and mask.

A `LogitLoss` compares next-token distributions; it is called for one chunk of tokens at a time. A
`StateLoss` compares what the models capture inside: one tensor per application of a block, so that
a shared block counts as often as it runs. All values are means over unmasked tokens, so that they
depend neither on the batch's size nor on its chunks, and no gradient goes to the teacher.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mobilellm.distillation.losses.layer_map import UNIFORM, LayerMap
from mobilellm.distillation.losses.schedule import Scheduled, check_scheduled, extremes, value_at
from mobilellm.distillation.losses.targets import RESTS, Target, check_mask
from mobilellm.ranges import check_fields

Projection = Callable[[int, Tensor], Tensor]
"""(index of the pair, student states) -> states of the teacher's width."""


@dataclass(frozen=True)
class Structure:
    """What a loss has to know of a model before it is built."""

    num_layers: int
    """Applications of blocks."""
    hidden_size: int
    """Width of the residual stream."""
    num_heads: tuple[int, ...]
    """Query heads of each application."""
    vocab_size: int
    captures: tuple[str, ...] = ("embedding", "hidden_states", "attention", "feed_forward")
    """What the model can capture."""
    temperature: float | None = None
    """The only one at which all its probabilities are known; None: any."""


@dataclass(frozen=True, kw_only=True)
class LogitLoss:
    """A divergence of next-token distributions.

    Raises:
        ValueError: a weight below 0, a temperature not above 0, an unknown `rest`.
    """

    weight: Scheduled = 1.0
    """Factor in the loss of the step."""
    temperature: Scheduled = 1.0
    """Both models' logits are divided by it; the loss is multiplied by its square."""
    rest: str = "bucket"
    """With a top-k teacher: `bucket` (all other tokens are one class) or `renormalize`."""

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
        """Mean over the unmasked tokens, in nats × temperature².

        Args:
            student_logits: (tokens, vocab).
            teacher: logits of the same shape, or their `TopK`.
            mask: bool (tokens,), True = counts.
            progress: share of the budget used up, for what is scheduled.
        """
        return self.divergence(
            student_logits, teacher, mask, temperature=value_at(self.temperature, progress),
            rest=self.rest,
        )  # fmt: skip

    def check(self, student: Structure, teacher: Structure) -> None:
        """Refuse models that cannot be compared, now or at any time of the run.

        Raises:
            ValueError: another vocabulary, a store of another temperature than the loss has or
                comes to have.
        """
        if student.vocab_size != teacher.vocab_size:
            raise ValueError(
                f"{type(self).__name__}: the student has {student.vocab_size} tokens, the teacher "
                f"{teacher.vocab_size}; both need the same tokenizer"
            )
        known = teacher.temperature
        if known is None or self.rest == "renormalize":
            return
        others = [value for value in extremes(self.temperature) if value != known]
        if others:
            raise ValueError(
                f"{type(self).__name__}: the logit store was made at temperature {known:g}, which "
                f"does not tell the mass of the other tokens at temperature {others[0]:g}; use "
                f"temperature={known:g} throughout, rest=renormalize, or a store made at that "
                "temperature"
            )

    def divergence(
        self, student_logits: Tensor, teacher: Target, mask: Tensor, *, temperature: float,
        rest: str,
    ) -> Tensor:  # fmt: skip
        """The pure function, at one temperature."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class StateLoss:
    """A distance between what student and teacher capture in mapped layers.

    Raises:
        ValueError: a weight below 0, another capture than the loss can compare, a layer map for
            the embedding.
    """

    CAPTURES: ClassVar[tuple[str, ...]] = ("hidden_states", "feed_forward", "embedding")
    """What the loss can compare."""

    weight: Scheduled = 1.0
    """Factor in the loss of the step."""
    capture: str = "hidden_states"
    """What is compared: `hidden_states`, `feed_forward`, `embedding` or `attention`."""
    layers: LayerMap = UNIFORM
    """Which application of the student learns from which of the teacher."""
    projection: bool = False
    """Learn a linear map from the student's width to the teacher's, one per pair of layers."""

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
                f"layers={self.layers} has no effect with capture=embedding, of which a model has "
                "one; leave layers out"
            )

    def pairs(self, student: Structure, teacher: Structure) -> tuple[tuple[int, int], ...]:
        """Indices of the captured tensors that are compared: (student's, teacher's)."""
        if self.capture == "embedding":
            return ((0, 0),)
        return self.layers.pairs(student.num_layers, teacher.num_layers)

    def check(self, student: Structure, teacher: Structure) -> None:
        """Refuse models that cannot be compared.

        Raises:
            ValueError: a teacher without the captured states, layers out of range, widths that
                differ without `projection`.
        """
        if self.capture not in teacher.captures:
            raise ValueError(
                f"{type(self).__name__} needs the teacher's {self.capture}, and this teacher gives "
                f"{', '.join(teacher.captures) or 'only probabilities'}; use another loss or "
                "another teacher"
            )
        self.pairs(student, teacher)
        self.check_widths(student, teacher)

    def check_widths(self, student: Structure, teacher: Structure) -> None:
        """Refuse widths that differ where nothing bridges them."""
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
        """Sum over the pairs of layers of the mean over the unmasked tokens.

        Args:
            student: captured tensors of the pairs, in order.
            teacher: theirs.
            mask: bool (batch, seq), True = counts.
            project: with `projection`, the learned maps.
        """
        raise NotImplementedError


DistillationLoss = LogitLoss | StateLoss


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` (of the same shape) is True; 0 where that is nowhere.

    What stands in masked places does not matter, even if it is not finite.
    """
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def compared_states(states: Tensor, mask: Tensor) -> Tensor:
    """Captured (..., width) at least in float32, 0 in masked tokens, which may hold anything."""
    dtype = torch.promote_types(states.dtype, torch.float32)
    return states.masked_fill(~mask.unsqueeze(-1), 0.0).to(dtype)


def check_states(student: Tensor, teacher: Tensor, mask: Tensor) -> None:
    """Refuse captured tensors (..., width) that cannot be compared.

    Raises:
        ValueError, TypeError: shapes that do not fit, a mask that is not bool.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"the teacher's states have shape {tuple(teacher.shape)}, the student's "
            f"{tuple(student.shape)}; both need the same tokens and width: set projection=true "
            "where widths differ"
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
    for index, (mine, theirs) in enumerate(zip(student, teacher, strict=True)):
        # Masked before the map too: its own gradient sees all tokens.
        states = mine if project is None else project(index, mine.masked_fill(~mask[..., None], 0))
        total = total + distance(states, theirs, mask)
    return total
