"""The losses of `label_losses` as two passes over the logits, which torch compiles for GPUs.

Operation by operation, softmax and gradient would be written and read several times in float32.
Compiled, one kernel reads the logits for their normaliser, and one writes the gradient in their own
type: four bytes per bfloat16 logit are in memory instead of ten.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mobilellm.labels import IGNORE_INDEX

Losses = tuple[Float[Tensor, " rows"], Float[Tensor, " teachers"], Float[Tensor, "rows vocab"]]


def can_compile(device: torch.device) -> bool:
    """Whether the losses are compiled on this device: on CUDA devices, if Triton is installed."""
    return device.type == "cuda" and _has_triton()


def fused_label_losses(
    logits: Float[Tensor, "rows vocab"],
    targets: Int[Tensor, " rows"],
    weight: Float[Tensor, " rows"] | float,
    soft: Sequence[tuple[Float[Tensor, "rows vocab"], float]],
    gradient_type: torch.dtype,
) -> Losses:
    """Compute `label_losses` by a compiled function.

    Args:
        logits: (rows, vocab), without gradient.
        targets: token ids (rows,). Rows with `IGNORE_INDEX` are ignored.
        weight: factor of the cross entropy: one for all rows, or one per row (rows,).
        soft: for each teacher its logits (rows, vocab) and the factor of its divergence.
        gradient_type: type of the gradient.

    Returns:
        As `label_losses`, but the gradient has the type `gradient_type`.
    """
    # The factors are tensors, made on the device: a number would be compiled into the code.
    factors = [logits.new_full((), factor, dtype=torch.float32) for _, factor in soft]
    own = weight if isinstance(weight, Tensor) else logits.new_full((), weight, dtype=torch.float32)
    teachers = [theirs for theirs, _ in soft]
    return _compiled()(logits, targets, own.float(), teachers, factors, gradient_type)


def two_pass_losses(
    logits: Float[Tensor, "rows vocab"],
    targets: Int[Tensor, " rows"],
    weight: Float[Tensor, "*rows"],
    teachers: Sequence[Float[Tensor, "rows vocab"]],
    factors: Sequence[Float[Tensor, ""]],
    gradient_type: torch.dtype,
) -> Losses:
    """The function that is compiled; `weight` is a scalar or (rows,)."""
    scores = logits.float()
    log_probabilities = scores - scores.logsumexp(-1, keepdim=True)
    has_label = targets != IGNORE_INDEX
    chosen = log_probabilities.gather(1, targets.clamp(min=0).unsqueeze(1)).squeeze(1)
    losses = torch.where(has_label, -chosen, 0.0)

    probabilities = log_probabilities.exp()
    is_target = torch.arange(logits.shape[1], device=logits.device) == targets.unsqueeze(1)
    gradient = (probabilities - is_target.float()) * weight.unsqueeze(-1)
    sums = losses.new_zeros(len(teachers))
    for index, (theirs, factor) in enumerate(zip(teachers, factors, strict=True)):
        theirs_log = theirs.float().log_softmax(-1)
        theirs_exp = theirs_log.exp()
        divergence = ((theirs_log - log_probabilities) * theirs_exp).sum(-1)
        sums[index] = torch.where(has_label, divergence, 0.0).sum()
        gradient = gradient + (probabilities - theirs_exp) * factor
    return losses, sums, torch.where(has_label.unsqueeze(1), gradient, 0.0).to(gradient_type)


@cache
def _compiled() -> Callable[..., Losses]:
    return torch.compile(two_pass_losses)


@cache
def _has_triton() -> bool:
    from torch.utils._triton import has_triton

    return has_triton()
