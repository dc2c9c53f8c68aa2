"""Log probabilities of whole answers, for losses on pairs of answers.

A window has several conversations, which `document_ids` number. Those with even numbers have the
better answers, and the next odd numbers are the worse answers of the same pairs.
"""

from collections.abc import Callable
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mobilellm.labels import ANSWER_LABELS, IGNORE_INDEX
from mobilellm.losses.chunked import Unembed, chunked_losses, num_chunks
from mobilellm.losses.cross_entropy import token_losses
from mobilellm.losses.label_losses import losses_and_log_probabilities

Batch = dict[str, Tensor]
PairLoss = Callable[[Tensor, Tensor], Tensor]
"""(log probabilities of the better answers, of the worse ones), both (pairs,) -> (pairs,)."""


def count_pairs(batch: Batch) -> Int[Tensor, ""]:
    """Number of pairs of answers in a micro-batch; 0 for data without preferences."""
    if ANSWER_LABELS not in batch:
        return batch["input_ids"].new_zeros(())
    return pair_mask(batch).sum()


def pair_mask(batch: Batch) -> Bool[Tensor, "batch slots"]:
    """Which slots for pairs are used: a window has as many slots as the most pairs it may have."""
    has_label = (batch[ANSWER_LABELS] != IGNORE_INDEX).float()
    return (pair_sums(has_label, batch) > 0).all(-1)


def pair_sums(values: Float[Tensor, "batch seq"], batch: Batch) -> Float[Tensor, "batch slots 2"]:
    """Sum values over the tokens of each answer; 0 in unused slots.

    Args:
        values: a number for each position, 0 where there is no label.
        batch: a micro-batch of preferences.

    Returns:
        For each pair the sum over the better answer and that over the worse one. The number of
        slots depends on the length of the windows alone, so that the host need not wait for it.
    """
    rows, length = values.shape
    answers = length + 1 + (length + 1) % 2
    sums = values.new_zeros(rows, answers).scatter_add(1, batch["document_ids"], values)
    return sums.view(rows, answers // 2, 2)


@torch.no_grad()
def reference_sums(
    logits: Callable[[slice], Tensor], batch: Batch
) -> Float[Tensor, "batch slots 2"]:
    """Log probabilities of both answers of each pair by a reference, see `pair_sums`.

    Args:
        logits: maps a range among the tokens of the micro-batch to the logits (rows, vocab) of the
            reference.
        batch: a micro-batch of preferences.
    """
    labels = batch[ANSWER_LABELS].flatten()
    chunks = num_chunks(len(labels), logits(slice(0, 0)))
    sizes = [len(part) for part in labels.tensor_split(chunks)]
    ends = list(accumulate(sizes))
    places = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    losses = [losses_and_log_probabilities(logits(place), labels[place])[0] for place in places]
    return pair_sums(-torch.cat(losses).view_as(batch[ANSWER_LABELS]), batch)


def pair_loss(
    hidden: Float[Tensor, "batch seq hidden"], unembed: Unembed, batch: Batch, loss: PairLoss
) -> Float[Tensor, ""]:
    """Sum a loss over all pairs of a micro-batch.

    The loss depends on the log probabilities of tokens through their sums only. Its gradient is
    therefore that of a cross entropy whose tokens are weighted by its derivatives with respect to
    these sums, so that the logits of one chunk of tokens at a time are in memory.

    Args:
        hidden: hidden states of the model that is trained.
        unembed: its head.
        batch: a micro-batch of preferences.
        loss: the loss of pairs; it is called once, with all slots.

    Returns:
        A float32 scalar, which can be backpropagated once.
    """
    labels, documents = batch[ANSWER_LABELS], batch["document_ids"]
    sums = pair_sums(-token_losses(hidden, unembed, labels), batch).requires_grad_()
    with torch.enable_grad():
        values = loss(sums[..., 0], sums[..., 1]).masked_fill(~pair_mask(batch), 0.0)
        (derivatives,) = torch.autograd.grad(values.sum(), sums)
    weights = -derivatives.flatten(1).gather(1, documents)
    carrier = chunked_losses(hidden, unembed, labels, label_weights=weights).total
    return carrier + (values.detach().sum() - carrier.detach())
