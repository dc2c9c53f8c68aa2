"""The loss of a micro-batch: the cross entropy, optionally weighted by task, and other terms."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mobilellm.labels import IGNORE_INDEX
from mobilellm.losses.answers import count_pairs
from mobilellm.losses.chunked import chunked_losses
from mobilellm.losses.loss_terms import (
    HasLossTerms,
    LogitTerm,
    LossTerm,
    PairTerm,
    label_weight_of,
    requested_captures,
)
from mobilellm.models.attention_mask import attention_mask_of

Batch = dict[str, Tensor]


class StepCounts(NamedTuple):
    """What is counted in a whole optimizer step, over all micro-batches and ranks."""

    labels: Int[Tensor, " tasks"]
    """Number of labels of each task (tasks + 1,), see `count_tasks`."""
    pairs: Int[Tensor, ""]
    """Number of pairs of answers; 0 for data without preferences."""


def micro_batch_losses(
    module: Any, batch: Batch, sources: Sequence[HasLossTerms], counts: StepCounts
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run the forward pass and compute the losses, as sums over unmasked tokens in nats.

    Args:
        module: the LanguageModelModule.
        batch: a micro-batch.
        sources: callbacks that add terms to the loss.
        counts: what is counted in the whole optimizer step.

    Returns:
        The loss, and each part of it without its weight. The keys of the parts are the suffixes of
        `train/loss` in the logged names, e.g. `""` for the cross entropy.
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
    on_logits = {n: t.as_chunk_term(labels.flatten()) if isinstance(t, LogitTerm) else t
                 for n, t in terms.items() if not isinstance(t, LossTerm | PairTerm)}  # fmt: skip
    weights = label_weights(batch, counts.labels, module.task_weights)
    label_weight = label_weight_of(sources, module)
    # A loss on pairs has a gradient by the head of its own; the labels are then only measured.
    has_pairs = any(isinstance(term, PairTerm) for term in terms.values())
    with torch.set_grad_enabled(bool(label_weight or on_logits or not has_pairs)):
        sums = chunked_losses(
            output.hidden,
            module.model.unembed,
            labels,
            label_weights=weights,
            cross_entropy_weight=label_weight,
            terms=list(on_logits.values()),
        )
    loss = sums.total
    nats = sums.token_losses if weights is None else sums.token_losses * weights
    values = {"": nats.sum()}
    values |= _task_losses(batch, sums.token_losses, counts.labels, module.task_weights)
    values |= {f"/{n}": value for n, value in zip(on_logits, sums.terms, strict=True)}
    # Factors for which the sums, divided by the number of labels of the step, are means.
    per_token = (labels != IGNORE_INDEX).sum()
    per_pair = counts.labels.sum() / counts.pairs.clamp(min=1)
    for name, term in terms.items():
        if isinstance(term, LossTerm | PairTerm):
            factor = per_token if isinstance(term, LossTerm) else per_pair
            loss = loss + term.value * factor * term.weight
            values[f"/{name}"] = term.value.detach() * factor
    return loss, values


def count_step(
    batches: Sequence[Batch], num_tasks: int, reduce: Callable[[Tensor], Tensor]
) -> StepCounts:
    """Count the labels and the pairs of a step.

    Args:
        batches: the micro-batches of this rank.
        num_tasks: number of tasks, which are numbered from 1.
        reduce: sums a tensor over the ranks.
    """
    counts = [
        torch.cat([count_tasks(batch, num_tasks), count_pairs(batch).unsqueeze(0)])
        for batch in batches
    ]
    total = reduce(torch.stack(counts).sum(0))
    return StepCounts(total[:-1], total[-1])


def count_tasks(batch: Batch, num_tasks: int) -> Int[Tensor, " tasks"]:
    """Count the labels of each task in a micro-batch.

    Args:
        batch: a micro-batch, with `tasks` (batch, seq) if there are tasks.
        num_tasks: number of tasks, which are numbered from 1.

    Returns:
        (num_tasks + 1,); index 0 is the number of labels without a task.
    """
    has_label = batch["labels"] != IGNORE_INDEX
    if num_tasks == 0 or "tasks" not in batch:
        count = has_label.sum().unsqueeze(0)
        return torch.cat([count, count.new_zeros(num_tasks)])
    tasks = batch["tasks"]
    return torch.stack([((tasks == task) & has_label).sum() for task in range(num_tasks + 1)])


def label_weights(
    batch: Batch, counts: Int[Tensor, " tasks"], weights: Mapping[str, float]
) -> Float[Tensor, "batch seq"] | None:
    """Compute factors of the labels for which the loss is Σ over tasks of weight × task mean.

    Args:
        batch: a micro-batch. `tasks` (batch, seq) is the number of the task of each label, from 1.
        counts: number of labels of each task in the whole step (tasks + 1,).
        weights: weight of each task by name, in the order of the task numbers.

    Returns:
        Factors (batch, seq) for a sum that is later divided by the number of all labels; None if
        there are no tasks.
    """
    if not weights or "tasks" not in batch:
        return None
    return (
        _weights_on((0.0, *weights.values()), counts.device) * counts.sum() / counts.clamp(min=1)
    )[batch["tasks"]]


@cache
def _weights_on(weights: tuple[float, ...], device: torch.device) -> Tensor:
    """The weights as a tensor, copied once: the host waits for every such copy."""
    return torch.tensor(weights, device=device)


def _task_losses(
    batch: Batch, nats: Tensor, counts: Tensor, weights: Mapping[str, float]
) -> dict[str, Tensor]:
    """Compute the cross entropy of each task.

    The values are scaled so that their sum over all micro-batches, divided by the number of all
    labels of the step, is the mean over the labels of the task.
    """
    if not weights or "tasks" not in batch:
        return {}
    shares = counts.sum() / counts.clamp(min=1)
    return {
        f"/{name}": nats.masked_fill(batch["tasks"] != task, 0.0).sum() * shares[task]
        for task, name in enumerate(weights, start=1)
    }
