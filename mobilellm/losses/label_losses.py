"""Losses whose gradient is softmax minus labels, hard or soft, so that they share one softmax."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORE_INDEX = -100

# Logits that one pass of softmax and gradient goes over on CPUs, so that they stay in a cache.
CPU_BLOCK_LOGITS = 2**19


@dataclass(frozen=True)
class SoftLabels:
    """KL(teacher ‖ student) at temperature 1, over the tokens that have a label.

    As a `ChunkTerm` it would be the same, but its gradient is softmax(student) − softmax(teacher),
    and softmax(student) is made for the cross entropy anyway: sharing it saves half of the time.
    """

    logits: Callable[[slice], Tensor]
    """A chunk's place among all tokens -> the teacher's logits (rows, vocab), without gradient."""
    weight: float = 1.0
    """Factor in the total."""


def label_losses(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | float,
    soft: Sequence[tuple[Tensor, float]] = (),
    *,
    slope: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropy with the targets and divergence from teachers, a few rows at a time.

    Args:
        logits: (rows, vocab), without gradient.
        targets: (rows,), token ids; -100 counts for nothing.
        weight: factor of the cross entropy, one or (rows,).
        soft: each teacher's logits (rows, vocab), and the factor of the divergence from it.
        slope: whether the gradient is wanted.

    Returns:
        Cross entropy of each row in nats (rows,); each divergence summed over the rows with a
        label (teachers,); the gradient of their weighted sum with respect to the logits (rows,
        vocab), or nothing in it. All float32.
    """
    rows, vocab = logits.shape
    losses = logits.new_empty(rows, dtype=torch.float32)
    sums = losses.new_zeros(len(soft))
    size = max(1, CPU_BLOCK_LOGITS // vocab) if logits.is_cpu else max(1, rows)
    # Of one block alone the gradient is returned where it was made, not copied.
    slopes = losses.new_empty((rows, vocab) if slope and size < rows else (0, vocab))
    for first in range(0, rows, size):
        block = slice(first, first + size)
        labels = targets[block]
        losses[block], log_probabilities = losses_and_log_probabilities(logits[block], labels)
        teachers = []
        for index, (theirs, factor) in enumerate(soft):
            value, probabilities = _divergence(theirs[block], log_probabilities, labels)
            sums[index] += value
            teachers.append((probabilities, factor))
        if slope:
            own = weight[block] if isinstance(weight, Tensor) else weight
            made = _logit_gradient_(log_probabilities, labels, own, teachers)
            if size < rows:
                slopes[block] = made
            else:
                slopes = made
    return losses, sums, slopes


def losses_and_log_probabilities(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each row (rows,) and log-probabilities (rows, vocab), both float32."""
    log_probabilities = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    chosen = log_probabilities.gather(1, targets.clamp(min=0).unsqueeze(1)).squeeze(1)
    return -chosen.masked_fill(targets == IGNORE_INDEX, 0.0), log_probabilities


def _divergence(
    teacher_logits: Tensor, log_probabilities: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum over the rows with a label, and the teacher's probabilities (rows, vocab)."""
    teacher_log_probs = torch.log_softmax(teacher_logits, dim=-1, dtype=torch.float32)
    probabilities = teacher_log_probs.exp()
    values = teacher_log_probs.sub_(log_probabilities).mul_(probabilities).sum(-1)
    return values.masked_fill(targets == IGNORE_INDEX, 0.0).sum(), probabilities


def _logit_gradient_(
    log_probabilities: Tensor,
    targets: Tensor,
    weight: Tensor | float,
    soft: Sequence[tuple[Tensor, float]],
) -> Tensor:
    """Σ over hard and soft labels of weight × (softmax − label); in the memory of the softmax.

    Rows without a label are 0.
    """
    gradient = log_probabilities.exp_()
    whole = weight + sum(factor for _, factor in soft)
    if isinstance(whole, Tensor):
        gradient.mul_(whole.unsqueeze(1))
    elif whole != 1:
        gradient.mul_(whole)
    hard = gradient.new_empty(targets.shape[0]).copy_(torch.as_tensor(weight)).neg_()
    gradient.scatter_add_(1, targets.clamp(min=0).unsqueeze(1), hard.unsqueeze(1))
    for probabilities, factor in soft:
        gradient.sub_(probabilities, alpha=factor)
    return gradient.masked_fill_((targets == IGNORE_INDEX).unsqueeze(1), 0.0)
