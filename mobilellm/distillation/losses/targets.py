"""What is known of the teacher's distribution, and the classes on which both models are compared.

A teacher in memory gives all logits; a store, or an online teacher with `top_k`, gives the k most
likely tokens. Then the two models are compared either on k + 1 classes, the tokens and "any other"
(`bucket`), or on the k tokens alone, given that it is one of them (`renormalize`). On equal models
both sides are equal either way, so that every divergence is zero there.

A student's gradient is exactly 0 in masked rows, even where its logits or the teacher's are not
finite. For a `TopK` the student's logits are passed over once in each direction, and nothing of
their size is kept in between.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

RESTS = ("bucket", "renormalize")
# Least probability of the rest, so that its logarithm exists. Where the teacher's is smaller, the
# class weighs next to nothing.
_LEAST_REST = 1e-9


@dataclass(frozen=True)
class TopK:
    """The k most likely tokens of each position."""

    indices: Tensor
    """Token ids (..., k), int64."""
    log_probabilities: Tensor
    """(..., k), among all tokens of the vocabulary."""
    temperature: float = 1.0
    """Logits were divided by it before the softmax."""

    def rows(self, rows: slice) -> "TopK":
        """Those positions, of flat (tokens, k) tensors."""
        return TopK(self.indices[rows], self.log_probabilities[rows], self.temperature)


Target = Tensor | TopK
"""The teacher's logits (..., vocab), or its `TopK`."""


def top_k_of(logits: Tensor, k: int, *, temperature: float = 1.0) -> TopK:
    """The k most likely tokens, most likely first.

    Args:
        logits: (..., vocab).
        k: at most vocab.
        temperature: of the softmax.

    Raises:
        ValueError: k out of range.
    """
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(
            f"k={k} must be between 1 and the vocabulary size of {logits.shape[-1]} tokens"
        )
    indices = logits.topk(k, dim=-1).indices
    return TopK(indices, log_softmax(logits, temperature).gather(-1, indices), temperature)


def log_probability_pair(
    student_logits: Tensor,
    teacher: Target,
    *,
    temperature: float = 1.0,
    rest: str = "bucket",
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of student and teacher on the classes that both are known on.

    Args:
        student_logits: (..., vocab).
        teacher: logits (..., vocab), or the teacher's `TopK`; no gradient goes there.
        temperature: both models' logits are divided by it.
        rest: what becomes of tokens outside a `TopK`: `bucket` or `renormalize`.
        mask: bool (...); no gradient passes where it is False. What is returned there may be
            anything.

    Returns:
        Student and teacher (..., classes), at least in float32: vocab, k + 1 or k classes.

    Raises:
        ValueError: shapes that do not fit, an unknown `rest`, a `bucket` of a `TopK` that was made
            at another temperature.
        TypeError: a mask that is not bool.
    """
    if mask is not None:
        check_mask(mask, student_logits.shape[:-1])
    if isinstance(teacher, TopK):
        return _top_k_pair(student_logits, teacher, temperature, rest, mask)
    check_same_shape(student_logits, teacher)
    student = log_softmax(mask_gradient(student_logits, mask), temperature)
    return student, log_softmax(teacher.detach(), temperature)


def check_mask(mask: Tensor, shape: torch.Size) -> None:
    """Refuse a mask that does not say for each token whether it counts.

    Raises:
        TypeError: not bool.
        ValueError: another shape.
    """
    if mask.dtype != torch.bool:
        raise TypeError(f"mask has dtype {mask.dtype}; give torch.bool, True = counts")
    if mask.shape != shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)}; the tokens have {tuple(shape)}")


def check_same_shape(student_logits: Tensor, teacher: Tensor) -> None:
    """Refuse logits of other tokens or another vocabulary.

    Raises:
        ValueError: shapes that differ.
    """
    if teacher.shape != student_logits.shape:
        raise ValueError(
            f"the teacher's logits have shape {tuple(teacher.shape)}, the student's "
            f"{tuple(student_logits.shape)}; both need the same tokens and vocabulary"
        )


def mask_gradient(rows: Tensor, mask: Tensor | None) -> Tensor:
    """The same (..., width), whose gradient is 0 in masked rows, even where it would be NaN.

    Masking the values in a forward pass would cost a copy that is kept for the backward pass.
    """
    if mask is None or all_count(mask):
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


def all_count(mask: Tensor) -> bool:
    """Whether nothing is masked, where that is cheap to know: elsewhere it would be waited for."""
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
    if rest == "renormalize":
        # Ratios among the k tokens are known at any temperature.
        chosen = mask_gradient(student_logits.gather(-1, teacher.indices), mask)
        known = known * (teacher.temperature / temperature)
        return log_softmax(chosen, temperature), known.log_softmax(-1)
    if teacher.temperature != temperature:
        raise ValueError(
            f"the teacher's top k were taken at temperature {teacher.temperature:g}, which does "
            f"not tell the mass of the other tokens at temperature {temperature:g}; use "
            f"temperature={teacher.temperature:g}, or rest=renormalize"
        )
    student = _ChosenLogProbabilities.apply(student_logits, teacher.indices, temperature, mask)
    return _with_rest(mask_gradient(student, mask)), _with_rest(known)  # pyright: ignore[reportArgumentType]


class _ChosenLogProbabilities(torch.autograd.Function):
    """Some log-probabilities of each row, without keeping all of them for the backward pass."""

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
        if mask is not None and not all_count(mask):
            gradient.masked_fill_(~mask.unsqueeze(-1), 0.0)
        return gradient.to(logits.dtype), None, None, None


def _with_rest(log_probabilities: Tensor) -> Tensor:
    """Append the class of all other tokens; where rounding leaves too little for it, make room."""
    rest = (1 - log_probabilities.exp().sum(-1, keepdim=True)).clamp(min=_LEAST_REST)
    return torch.cat([log_probabilities, rest.log()], -1)


def _dtype_of(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1 else logits.to(_dtype_of(logits)) / temperature


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities (..., vocab) at a temperature, at least in float32."""
    return _scaled(logits, temperature).log_softmax(-1, dtype=_dtype_of(logits))
