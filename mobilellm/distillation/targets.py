"""What is known of the teacher's distribution, and the classes on which both models are compared.

A teacher in memory gives all logits; a store, or an online teacher with `top_k`, gives the k most
likely tokens. Then the two models are compared either on k + 1 classes, the tokens and "any other"
(`bucket`), or on the k tokens alone, given that it is one of them (`renormalize`). On equal models
both sides are equal either way, so that every divergence is zero there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

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
        raise ValueError(f"k={k} must lie between 1 and the vocabulary, {logits.shape[-1]} words")
    scaled = _scaled(logits, temperature)
    values, indices = scaled.topk(k, dim=-1)
    return TopK(indices, values - scaled.logsumexp(-1, keepdim=True), temperature)


def log_probability_pair(
    student_logits: Tensor, teacher: Target, *, temperature: float = 1.0, rest: str = "bucket"
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of student and teacher on the classes that both are known on.

    Args:
        student_logits: (..., vocab).
        teacher: logits (..., vocab), or the teacher's `TopK`; no gradient goes there.
        temperature: both models' logits are divided by it.
        rest: what becomes of tokens outside a `TopK`: `bucket` or `renormalize`.

    Returns:
        Student and teacher (..., classes), at least in float32: vocab, k + 1 or k classes.

    Raises:
        ValueError: shapes that do not fit, an unknown `rest`, a `bucket` of a `TopK` that was made
            at another temperature.
    """
    if isinstance(teacher, TopK):
        return _top_k_pair(student_logits, teacher, temperature, rest)
    if teacher.shape != student_logits.shape:
        raise ValueError(
            f"the teacher's logits have shape {tuple(teacher.shape)}, the student's "
            f"{tuple(student_logits.shape)}; both need the same tokens and vocabulary"
        )
    student = _scaled(student_logits, temperature).log_softmax(-1)
    return student, _scaled(teacher.detach(), temperature).log_softmax(-1)


def _top_k_pair(
    student_logits: Tensor, teacher: TopK, temperature: float, rest: str
) -> tuple[Tensor, Tensor]:
    if rest not in RESTS:
        raise ValueError(f"rest={rest!r} is not known; use one of {', '.join(RESTS)}")
    chosen = _scaled(student_logits.gather(-1, teacher.indices), temperature)
    known = teacher.log_probabilities.detach().to(chosen.dtype)
    if rest == "renormalize":
        # Ratios among the k tokens are known at any temperature.
        known = known * (teacher.temperature / temperature)
        return chosen.log_softmax(-1), known.log_softmax(-1)
    if teacher.temperature != temperature:
        raise ValueError(
            f"the teacher's top k were taken at temperature {teacher.temperature:g}, which does "
            f"not tell the mass of the other tokens at temperature {temperature:g}; use "
            f"temperature={teacher.temperature:g}, or rest=renormalize"
        )
    student = chosen - _scaled(student_logits, temperature).logsumexp(-1, keepdim=True)
    return _with_rest(student), _with_rest(known)


def _with_rest(log_probabilities: Tensor) -> Tensor:
    """Append the class of all other tokens; where rounding leaves too little for it, make room."""
    rest = (1 - log_probabilities.exp().sum(-1, keepdim=True)).clamp(min=_LEAST_REST)
    return torch.cat([log_probabilities, rest.log()], -1)


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits if temperature == 1 else logits / temperature
