"""Cross entropy with labels and KL divergence from teachers, computed from the same softmax.

The gradient of both with respect to the logits is softmax(student) minus the (hard or soft) labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mobilellm.labels import IGNORE_INDEX
from mobilellm.losses.fused_label_losses import can_compile, fused_label_losses

# Number of logits for which softmax and gradient are computed at a time on CPUs: more logits do not
# fit in the CPU cache.
CPU_BLOCK_LOGITS = 2**19


@dataclass(frozen=True)
class SoftLabels:
    """KL(teacher ‖ student) at temperature 1, summed over the tokens that have a label.

    A `ChunkTerm` could compute the same loss. However, the gradient is softmax(student) −
    softmax(teacher), and sharing softmax(student) with the cross entropy saves half of the time.
    """

    logits: Callable[[slice], Tensor]
    """Maps the range of a chunk among all tokens to the teacher's detached logits (rows, vocab)."""
    weight: float = 1.0
    """Factor in the total loss."""


def label_losses(
    logits: Float[Tensor, "rows vocab"],
    targets: Int[Tensor, " rows"],
    weight: Float[Tensor, " rows"] | float,
    soft: Sequence[tuple[Float[Tensor, "rows vocab"], float]] = (),
    *,
    with_gradient: bool = True,
    gradient_type: torch.dtype = torch.float32,
) -> tuple[
    Float[Tensor, " rows"], Float[Tensor, " teachers"], Float[Tensor, "gradient_rows vocab"]
]:
    """Compute the cross entropy with labels, and the KL divergence from each teacher.

    Args:
        logits: (rows, vocab), without gradient.
        targets: token ids (rows,). Rows with `IGNORE_INDEX` are ignored.
        weight: factor of the cross entropy: one for all rows, or one per row (rows,).
        soft: for each teacher its logits (rows, vocab) and the factor of its divergence.
        with_gradient: whether to compute the gradient.
        gradient_type: type of the gradient; on CPUs it is float32 whatever this is.

    Returns:
        Three tensors, the first two in float32: the cross entropy of each row in nats (rows,); the
        divergence from each teacher in nats, summed over the rows with a label (teachers,); and the
        gradient of the weighted sum of both with respect to the logits (rows, vocab), or an empty
        tensor (0, vocab) if with_gradient is False.
    """
    if with_gradient and can_compile(logits.device):
        return fused_label_losses(logits, targets, weight, soft, gradient_type)
    rows, vocab = logits.shape
    losses = logits.new_empty(rows, dtype=torch.float32)
    sums = losses.new_zeros(len(soft))
    size = max(1, CPU_BLOCK_LOGITS // vocab) if logits.is_cpu else max(1, rows)
    # If there is a single block, its gradient is returned without a copy.
    gradient = losses.new_empty((rows, vocab) if with_gradient and size < rows else (0, vocab))
    for first in range(0, rows, size):
        block = slice(first, first + size)
        labels = targets[block]
        losses[block], log_probabilities = losses_and_log_probabilities(logits[block], labels)
        teachers = []
        for index, (theirs, factor) in enumerate(soft):
            value, probabilities = _divergence(theirs[block], log_probabilities, labels)
            sums[index] += value
            teachers.append((probabilities, factor))
        if with_gradient:
            own = weight[block] if isinstance(weight, Tensor) else weight
            block_gradient = _logit_gradient_(log_probabilities, labels, own, teachers)
            if size < rows:
                gradient[block] = block_gradient
            else:
                gradient = block_gradient
    return losses, sums, gradient


def losses_and_log_probabilities(
    logits: Float[Tensor, "rows vocab"], targets: Int[Tensor, " rows"]
) -> tuple[Float[Tensor, " rows"], Float[Tensor, "rows vocab"]]:
    """Compute the cross entropy (rows,) in nats and log-probabilities (rows, vocab), in float32."""
    log_probabilities = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    chosen = log_probabilities.gather(1, targets.clamp(min=0).unsqueeze(1)).squeeze(1)
    return -chosen.masked_fill(targets == IGNORE_INDEX, 0.0), log_probabilities


def _divergence(
    teacher_logits: Float[Tensor, "rows vocab"],
    log_probabilities: Float[Tensor, "rows vocab"],
    targets: Int[Tensor, " rows"],
) -> tuple[Float[Tensor, ""], Float[Tensor, "rows vocab"]]:
    """Return the KL divergence, summed over rows with a label, and the teacher's probabilities."""
    teacher_log_probs = torch.log_softmax(teacher_logits, dim=-1, dtype=torch.float32)
    probabilities = teacher_log_probs.exp()
    values = teacher_log_probs.sub_(log_probabilities).mul_(probabilities).sum(-1)
    return values.masked_fill(targets == IGNORE_INDEX, 0.0).sum(), probabilities


def _logit_gradient_(
    log_probabilities: Float[Tensor, "rows vocab"],
    targets: Int[Tensor, " rows"],
    weight: Float[Tensor, " rows"] | float,
    soft: Sequence[tuple[Float[Tensor, "rows vocab"], float]],
) -> Float[Tensor, "rows vocab"]:
    """Compute Σ over hard and soft labels of weight × (softmax − label); 0 in rows without a label.

    The result is written to the memory of `log_probabilities`.
    """
    gradient = log_probabilities.exp_()
    whole = weight + sum(factor for _, factor in soft)
    if isinstance(whole, Tensor):
        gradient.mul_(whole.unsqueeze(1))
    elif whole != 1:
        gradient.mul_(whole)
    # Made on the device: the host would wait for the copy of a number.
    hard = (
        weight.to(gradient.dtype).neg()
        if isinstance(weight, Tensor)
        else gradient.new_full(targets.shape, -weight)
    )
    gradient.scatter_add_(1, targets.clamp(min=0).unsqueeze(1), hard.unsqueeze(1))
    for probabilities, factor in soft:
        gradient.sub_(probabilities, alpha=factor)
    return gradient.masked_fill_((targets == IGNORE_INDEX).unsqueeze(1), 0.0)
