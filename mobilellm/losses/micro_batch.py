"""The loss of a micro-batch: cross entropy, weighted by task if there are tasks, and terms."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mobilellm.losses.chunked import chunked_losses
from mobilellm.losses.label_losses import IGNORE_INDEX
from mobilellm.losses.loss_terms import (
    HasLossTerms,
    LogitTerm,
    LossTerm,
    label_weight_of,
    requested_captures,
)
from mobilellm.models.attention_mask import attention_mask_of

Batch = dict[str, Tensor]


def micro_batch_losses(
    module: Any, batch: Batch, sources: Sequence[HasLossTerms], counts: Int[Tensor, " tasks"]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Forward pass and losses, as sums over the unmasked tokens in nats.

    Args:
        module: the LanguageModelModule.
        batch: a micro-batch.
        sources: callbacks that add terms to the loss.
        counts: labels of each task in the whole optimizer step, from `count_tasks`.

    Returns:
        The loss, and each part of it without its weight, by what follows `train/loss` in its
        logged name (`""` is the cross entropy).
    """
    output = module.model(
        batch["input_ids"],
        attention_mask=attention_mask_of(batch),
        logits=False,
        capture=requested_captures(sources),
    )
    labels = batch["labels"]
    terms = {
        name: term
        for source in sources
        for name, term in source.loss_terms(module, batch, output).items()
    }
    on_logits = {n: t.over(labels.flatten()) if isinstance(t, LogitTerm) else t
                 for n, t in terms.items() if not isinstance(t, LossTerm)}  # fmt: skip
    weights = label_weights(batch, counts, module.task_weights)
    sums = chunked_losses(
        output.hidden,
        module.model.unembed,
        labels,
        label_weights=weights,
        cross_entropy_weight=label_weight_of(sources, module),
        terms=list(on_logits.values()),
    )
    loss = sums.total
    nats = sums.token_losses if weights is None else sums.token_losses * weights
    values = {"": nats.sum()}
    values |= _task_losses(batch, sums.token_losses, counts, module.task_weights)
    values |= {f"/{n}": value for n, value in zip(on_logits, sums.terms, strict=True)}
    tokens = (labels != IGNORE_INDEX).sum()
    for name, term in terms.items():
        if isinstance(term, LossTerm):
            loss = loss + term.value * tokens * term.weight
            values[f"/{name}"] = term.value.detach() * tokens
    return loss, values


def count_tasks(batch: Batch, num_tasks: int) -> Int[Tensor, " tasks"]:
    """Labels of each task in a micro-batch (num_tasks + 1,); index 0 counts those of no task."""
    has_label = batch["labels"] != IGNORE_INDEX
    if num_tasks == 0 or "tasks" not in batch:
        count = has_label.sum().unsqueeze(0)
        return torch.cat([count, count.new_zeros(num_tasks)])
    return batch["tasks"][has_label].bincount(minlength=num_tasks + 1)


def label_weights(
    batch: Batch, counts: Int[Tensor, " tasks"], weights: Mapping[str, float]
) -> Float[Tensor, "batch seq"] | None:
    """Factors with which a step's cross entropy is Σ over tasks of weight × mean of the task.

    Args:
        batch: a micro-batch; `tasks` (batch, seq) says which task each label belongs to, from 1.
        counts: labels of each task in the whole step (tasks + 1,).
        weights: weight of each task, in the order of their numbers.

    Returns:
        (batch, seq), for a sum that is divided by the number of all labels; None if there are no
        tasks.
    """
    if not weights or "tasks" not in batch:
        return None
    given = torch.tensor([0.0, *weights.values()], device=counts.device)
    return (given * counts.sum() / counts.clamp(min=1))[batch["tasks"]]


def _task_losses(
    batch: Batch, nats: Tensor, counts: Tensor, weights: Mapping[str, float]
) -> dict[str, Tensor]:
    """Cross entropy of each task, scaled to its mean over the task's labels in the step.

    The sum over all micro-batches, divided by the number of all labels, is that mean.
    """
    if not weights or "tasks" not in batch:
        return {}
    shares = counts.sum() / counts.clamp(min=1)
    return {
        f"/{name}": nats[batch["tasks"] == task].sum() * shares[task]
        for task, name in enumerate(weights, start=1)
    }
