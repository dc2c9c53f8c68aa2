"""Targets of logit losses: all logits of the teacher, or the probabilities of its top k tokens.

A teacher in memory provides all logits. A logit store, or a teacher in memory with `top_k`,
provides the probabilities of the k most likely tokens. The two models are then compared either on
k + 1 classes, the k tokens and all others together (`bucket`), or by their probabilities among the
k tokens (`renormalize`). In both cases every divergence of equal models is zero.

The gradient of the student is exactly 0 for masked tokens, even if its logits or the teacher's are
not finite there. With a `TopK`, no tensor of the size of the logits is kept for the backward pass.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

RESTS = ("bucket", "renormalize")
# Smallest probability of all other tokens together, so that its logarithm is finite. If the
# teacher's is smaller, the class hardly contributes.
_LEAST_REST = 1e-9


@dataclass(frozen=True)
class TopK:
    """The k most likely next tokens of each position and their log-probabilities."""

    indices: Tensor
    """Token ids (..., k), int64."""
    log_probabilities: Tensor
    """(..., k), in nats, of a softmax over the whole vocabulary."""
    temperature: float = 1.0
    """The logits were divided by it before the softmax."""
    is_sample: bool = False
    """Whether the tokens are a random sample, and the probabilities weights that sum to 1 and whose
    expectation is the whole distribution (`mobilellm.distillation.losses.sampling`)."""

    def rows(self, rows: slice) -> "TopK":
        """The part for some positions, if the tensors are (tokens, k)."""
        return replace(
            self, indices=self.indices[rows], log_probabilities=self.log_probabilities[rows]
        )


Target = Tensor | TopK
"""The teacher's logits (..., vocab), or its `TopK`."""


def top_k_of(logits: Float[Tensor, "*tokens vocab"], k: int, *, temperature: float = 1.0) -> TopK:
    """The k most likely tokens, most likely first.

    Args:
        logits: (..., vocab).
        k: at most vocab.
        temperature: temperature of the softmax.

    Raises:
        ValueError: k is out of range.
    """
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"k={k} must be between 1 and vocab_size={logits.shape[-1]}")
    indices = logits.topk(k, dim=-1).indices
    return TopK(indices, log_softmax(logits, temperature).gather(-1, indices), temperature)


def log_probability_pair(
    student_logits: Float[Tensor, "*tokens vocab"],
    teacher: Target,
    *,
    temperature: float = 1.0,
    rest: str = "bucket",
    mask: Shaped[Tensor, "*mask"] | None = None,
) -> tuple[Float[Tensor, "*tokens classes"], Float[Tensor, "*tokens classes"]]:
    """Log-probabilities of student and teacher on the classes that are compared.

    Args:
        student_logits: (..., vocab).
        teacher: logits (..., vocab), or the teacher's `TopK`; it receives no gradient.
        temperature: the logits of both models are divided by it.
        rest: how tokens outside a `TopK` are treated: `bucket` or `renormalize`.
        mask: bool (...); tokens with False receive no gradient, and their returned values are
            undefined.

    Returns:
        Student and teacher (..., classes), in float32 or more, with vocab, k + 1 or k classes.

    Raises:
        ValueError: shapes do not fit, `rest` is unknown, or with `bucket` the `TopK` was made at
            another temperature.
        TypeError: the mask is not bool.
    """
    if mask is not None:
        check_mask(mask, student_logits.shape[:-1])
    if isinstance(teacher, TopK):
        return _top_k_pair(student_logits, teacher, temperature, rest, mask)
    check_same_shape(student_logits, teacher)
    student = log_softmax(mask_gradient(student_logits, mask), temperature)
    return student, log_softmax(teacher.detach(), temperature)


def check_mask(mask: Tensor, shape: torch.Size) -> None:
    """Check that a mask is bool and has one entry per token.

    Raises:
        TypeError: it is not bool.
        ValueError: it has another shape.
    """
    if mask.dtype != torch.bool:
        raise TypeError(f"mask has dtype {mask.dtype}; give torch.bool: True for tokens that count")
    if mask.shape != shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)}; the tokens have {tuple(shape)}")


def check_same_shape(student_logits: Tensor, teacher: Tensor) -> None:
    """Check that both models have logits for the same tokens and vocabulary.

    Raises:
        ValueError: the shapes differ.
    """
    if teacher.shape != student_logits.shape:
        raise ValueError(
            f"the teacher's logits have shape {tuple(teacher.shape)}, the student's "
            f"{tuple(student_logits.shape)}; both need the same tokens and vocabulary"
        )


def mask_gradient(
    rows: Float[Tensor, "*tokens width"], mask: Bool[Tensor, "*tokens"] | None
) -> Float[Tensor, "*tokens width"]:
    """Return rows (..., width) unchanged, with gradient 0 for masked rows even if it would be NaN.

    Masking the values themselves would keep a copy of them for the backward pass.
    """
    if mask is None or is_unmasked(mask):
        return rows
    return _MaskedGradient.apply(rows, mask)  # pyright: ignore[reportReturnType]


class _MaskedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (mask,) = ctx.saved_tensors
        return grad_output.masked_fill(~mask.unsqueeze(-1), 0.0), None


def is_unmasked(mask: Tensor) -> bool:
    """Whether no token is masked; False on a device that would have to be waited for."""
    return mask.device.type == "cpu" and bool(mask.all())


def _top_k_pair(
    student_logits: Tensor, teacher: TopK, temperature: float, rest: str, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    if rest not in RESTS:
        raise ValueError(f"rest={rest!r} is not known; use one of {', '.join(RESTS)}")
    if teacher.indices.shape[:-1] != student_logits.shape[:-1]:
        raise ValueError(
            f"the teacher's top k have shape {tuple(teacher.indices.shape)}, the student's logits "
            f"{tuple(student_logits.shape)}; both need the same tokens"
        )
    dtype = _dtype_of(student_logits)
    known = teacher.log_probabilities.detach().to(dtype)
    if teacher.is_sample and rest != "bucket":
        raise ValueError(
            f"rest={rest} has no meaning for sampled tokens, which stand for all tokens; "
            "leave it out"
        )
    if rest == "renormalize":
        # The ratios of the k probabilities are known at any temperature.
        chosen = mask_gradient(student_logits.gather(-1, teacher.indices), mask)
        known = known * (teacher.temperature / temperature)
        return log_softmax(chosen, temperature), known.log_softmax(-1)
    if teacher.temperature != temperature:
        raise ValueError(
            f"the teacher's top k are known at temperature {teacher.temperature:g}, and the "
            f"probability of all other tokens at temperature {temperature:g} is not; use "
            f"temperature={teacher.temperature:g}"
            + ("" if teacher.is_sample else ", or rest=renormalize")
        )
    student = _ChosenLogProbabilities.apply(student_logits, teacher.indices, temperature, mask)
    if teacher.is_sample:  # The weights sum to 1, so that there is no other class.
        return mask_gradient(student, mask), known  # pyright: ignore[reportArgumentType]
    return _with_rest(mask_gradient(student, mask)), _with_rest(known)  # pyright: ignore[reportArgumentType]


class _ChosenLogProbabilities(torch.autograd.Function):
    """Selected log-probabilities of each row; the others are not kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, indices: Tensor, temperature: float, mask: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(logits, indices, mask)
        ctx.temperature = temperature
        return log_softmax(logits, temperature).gather(-1, indices)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits, indices, mask = ctx.saved_tensors
        grad_output = grad_output / ctx.temperature
        gradient = _scaled(logits, ctx.temperature).softmax(-1, dtype=_dtype_of(logits))
        gradient.mul_(-grad_output.sum(-1, keepdim=True)).scatter_add_(-1, indices, grad_output)
        if mask is not None and not is_unmasked(mask):
            gradient.masked_fill_(~mask.unsqueeze(-1), 0.0)
        return gradient.to(logits.dtype), None, None, None


def _with_rest(
    log_probabilities: Float[Tensor, "*tokens k"],
) -> Float[Tensor, "*tokens classes"]:
    """Append the class of all other tokens, whose probability is at least `_LEAST_REST`."""
    rest = (1 - log_probabilities.exp().sum(-1, keepdim=True)).clamp(min=_LEAST_REST)
    return torch.cat([log_probabilities, rest.log()], -1)


def _dtype_of(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1 else logits.to(_dtype_of(logits)) / temperature


def log_softmax(
    logits: Float[Tensor, "*tokens vocab"], temperature: float
) -> Float[Tensor, "*tokens vocab"]:
    """Log-probabilities (..., vocab) at a temperature, in float32 or more."""
    return _scaled(logits, temperature).log_softmax(-1, dtype=_dtype_of(logits))
