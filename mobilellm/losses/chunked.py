"""Losses on logits over a large vocabulary, computed for one chunk of tokens at a time.

Only the logits of one chunk are in memory. They are computed once for the cross entropy and all
other losses. The forward pass also computes the gradients with respect to the hidden states and to
all parameters that `unembed` uses (a tied embedding, a head, or factors), so that no logits are
saved for the backward pass.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mobilellm.accounting.training_memory import LOSS_CHUNK_LOGITS
from mobilellm.losses.label_losses import SoftLabels, label_losses

Unembed = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ChunkTerm:
    """A loss on logits in addition to the cross entropy."""

    function: Callable[[Tensor, slice], Tensor]
    """Maps the logits (rows, vocab) of a chunk and its range among all tokens to the sum of the
    loss over these tokens."""
    weight: float = 1.0
    """Factor in the total loss."""
    chunk_share: float = 0.5
    """Size of the chunks relative to those of the cross entropy alone. Losses that save tensors of
    the size of the logits for their gradient need smaller chunks."""


Term = ChunkTerm | SoftLabels


@dataclass(frozen=True)
class LossSums:
    """Sums of losses over all tokens, in float32."""

    total: Tensor
    """Weighted sum of all losses, which can be backpropagated once."""
    token_losses: Tensor
    """Cross entropy of each token in nats (...), 0 for tokens without a label; without gradient."""
    terms: Tensor
    """Sum of each term, not multiplied by its weight (terms,); without gradient."""


def chunked_losses(
    hidden: Float[Tensor, "*tokens hidden"],
    unembed: Unembed,
    labels: Int[Tensor, "*labels"],
    *,
    label_weights: Float[Tensor, "*labels"] | None = None,
    cross_entropy_weight: float = 1.0,
    terms: Sequence[Term] = (),
    chunk_tokens: int | None = None,
) -> LossSums:
    """Compute the cross entropy and other losses on the logits of all tokens.

    Softmax and sums are computed in float32.

    Args:
        hidden: hidden states (..., hidden), the input of `unembed`.
        unembed: maps hidden states (tokens, hidden) to logits (tokens, vocab), independently for
            each token.
        labels: token ids (...). The cross entropy ignores labels equal to `IGNORE_INDEX`.
        label_weights: factor of the cross entropy of each token (...); default: 1.
        cross_entropy_weight: factor of the total cross entropy.
        terms: additional losses.
        chunk_tokens: number of tokens per chunk; default: the number that `LOSS_CHUNK_LOGITS`
            allows.

    Raises:
        ValueError: `labels` does not have the shape of `hidden` without its last dimension, or
            chunk_tokens is below 1.
    """
    if hidden.shape[:-1] != labels.shape:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and hidden {tuple(hidden.shape)}; give one "
            f"label per hidden state: {tuple(hidden.shape[:-1])}"
        )
    if chunk_tokens is not None and chunk_tokens < 1:
        raise ValueError(f"chunk_tokens={chunk_tokens} must be at least 1")
    shape = labels.shape
    hidden, labels = hidden.flatten(0, -2), labels.flatten()
    weights = None if label_weights is None else label_weights.flatten() * cross_entropy_weight
    # The graph of the logits of no tokens shows which parameters `unembed` uses.
    probe = unembed(hidden[:0].detach())
    share = min((t.chunk_share for t in terms if isinstance(t, ChunkTerm)), default=1.0)
    plan = _Plan(
        unembed=unembed,
        labels=labels,
        weights=cross_entropy_weight if weights is None else weights,
        terms=tuple(terms),
        num_chunks=num_chunks(hidden.shape[0], probe, chunk_tokens, share),
    )
    if not (torch.is_grad_enabled() and (hidden.requires_grad or probe.requires_grad)):
        total, losses, sums = _sums(hidden, plan)
    else:
        parameters = _leaf_parameters(probe)
        total, losses, sums = _ChunkedLosses.apply(hidden, plan, *parameters)  # pyright: ignore
    return LossSums(total, losses.view(shape), sums)


@dataclass(frozen=True)
class _Plan:
    """Arguments of `chunked_losses` other than the hidden states."""

    unembed: Unembed
    labels: Tensor
    weights: Tensor | float
    terms: tuple[Term, ...]
    num_chunks: int

    @property
    def has_chunk_terms(self) -> bool:
        """Whether further losses add their gradients to that of the labels."""
        return any(isinstance(term, ChunkTerm) for term in self.terms)

    def chunks_of(self, hidden: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Range, hidden states and labels of each chunk; the chunks have nearly equal sizes."""
        start = 0
        for rows, targets in split_chunks(hidden, self.labels, self.num_chunks):
            yield slice(start, start + rows.shape[0]), rows, targets
            start += rows.shape[0]

    def add_soft_(self, sums: Tensor, soft: Tensor) -> None:
        """Add the sums of the terms that are `SoftLabels`, in their order, to those of all terms.

        One by one: indexing by a list copies the list to the device, for which the host waits.
        """
        places = [i for i, term in enumerate(self.terms) if isinstance(term, SoftLabels)]
        for place, value in zip(places, soft, strict=True):
            sums[place] += value

    def soft_labels(self, place: slice) -> list[tuple[Tensor, float]]:
        """Logits and weight of each teacher for one chunk."""
        return [(t.logits(place), t.weight) for t in self.terms if isinstance(t, SoftLabels)]

    def weighted(self, sums: Tensor) -> Tensor:
        """Weighted sum of the terms; `sums` is (terms,)."""
        return sum((s * term.weight for s, term in zip(sums, self.terms, strict=True)),
                   sums.new_zeros(()))  # fmt: skip

    def weight_of(self, place: slice) -> Tensor | float:
        """Factor of the cross entropy, for all tokens or for each token of a chunk."""
        return self.weights[place] if isinstance(self.weights, Tensor) else self.weights


class _ChunkedLosses(torch.autograd.Function):
    """Losses whose forward pass computes the gradients; the backward pass scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, plan: _Plan, *parameters: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        # One allocation: concatenating the chunks at the end would fragment the heap.
        hidden_gradient = torch.empty_like(hidden)
        gradients: list[Tensor | None] = [None] * len(parameters)
        total, token_losses, sums = totals = _empty_sums(hidden, plan)
        for place, rows, targets in plan.chunks_of(hidden.detach()):
            chunk_gradients = _chunk_gradients(plan, place, rows, targets, parameters, totals)
            hidden_gradient[place] = chunk_gradients[0]
            gradients = [
                new if old is None else old.add_(new)
                for old, new in zip(gradients, chunk_gradients[1:], strict=True)
            ]
        total += plan.weighted(sums)
        ctx.gradients = [hidden_gradient, *gradients]
        ctx.mark_non_differentiable(token_losses, sums)
        return total, token_losses, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, *_: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if ctx.gradients is None:
            raise RuntimeError("the chunked losses can be backpropagated only once")
        hidden, *gradients = (gradient.mul_(scale) for gradient in ctx.gradients)
        ctx.gradients = None
        return hidden, None, *gradients


def _chunk_gradients(
    plan: _Plan,
    place: slice,
    rows: Float[Tensor, "rows hidden"],
    targets: Int[Tensor, " rows"],
    parameters: Sequence[Tensor],
    totals: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, ...]:
    """Add the losses of one chunk to the totals, and return the gradients of its inputs.

    A function of its own, at the end of which nothing of the size of the logits is in memory.

    Args:
        plan: the losses.
        place: range of the chunk among all tokens.
        rows: its hidden states, detached.
        targets: its labels.
        parameters: those that `unembed` uses.
        totals: see `_empty_sums`; they are changed.

    Returns:
        Gradients of the rows and of the parameters.
    """
    total, token_losses, sums = totals
    with torch.enable_grad():
        inputs = [rows.requires_grad_(), *parameters]
        logits = plan.unembed(inputs[0])
    weight = plan.weight_of(place)
    found = label_losses(
        logits.detach(), targets, weight, plan.soft_labels(place),
        gradient_type=torch.float32 if plan.has_chunk_terms else logits.dtype,
    )  # fmt: skip
    token_losses[place], soft, logit_gradient = found
    total += (token_losses[place] * weight).sum()
    plan.add_soft_(sums, soft)
    for index, term in enumerate(plan.terms):
        if isinstance(term, ChunkTerm):
            leaf = logits.detach().requires_grad_()
            with torch.enable_grad():
                value = term.function(leaf, place)
            sums[index] += value.detach()
            if term.weight:
                logit_gradient.add_(torch.autograd.grad(value, leaf)[0], alpha=term.weight)
    return torch.autograd.grad(logits, inputs, logit_gradient.to(logits.dtype))


def _empty_sums(
    hidden: Float[Tensor, "tokens hidden"], plan: _Plan
) -> tuple[Float[Tensor, ""], Float[Tensor, " tokens"], Float[Tensor, " terms"]]:
    """Zeros for the total, the losses of the tokens and the sums of the terms."""
    options: dict[str, Any] = {"dtype": torch.float32, "device": hidden.device}
    return (
        torch.zeros((), **options),
        torch.zeros(hidden.shape[0], **options),
        torch.zeros(len(plan.terms), **options),
    )


def _sums(
    hidden: Float[Tensor, "tokens hidden"], plan: _Plan
) -> tuple[Float[Tensor, ""], Float[Tensor, " tokens"], Float[Tensor, " terms"]]:
    """Compute the same losses as `_ChunkedLosses`, but without gradients."""
    total, token_losses, sums = _empty_sums(hidden, plan)
    for place, rows, targets in plan.chunks_of(hidden):
        logits = plan.unembed(rows)
        weight = plan.weight_of(place)
        found = label_losses(logits, targets, weight, plan.soft_labels(place), with_gradient=False)
        token_losses[place], soft, _ = found
        total += (token_losses[place] * weight).sum()
        plan.add_soft_(sums, soft)
        for index, term in enumerate(plan.terms):
            if isinstance(term, ChunkTerm):
                sums[index] += term.function(logits, place)
    return total + plan.weighted(sums), token_losses, sums


def split_chunks(hidden: Tensor, labels: Tensor, chunks: int) -> Any:
    """Split hidden states and labels into chunks of nearly equal size, and iterate over both."""
    return zip(hidden.tensor_split(chunks), labels.tensor_split(chunks), strict=True)


def num_chunks(
    tokens: int, probe: Tensor, chunk_tokens: int | None = None, share: float = 1.0
) -> int:
    """Compute the number of chunks.

    Args:
        tokens: total number of tokens.
        probe: logits of no tokens (0, vocab), which give the device and the vocabulary size.
        chunk_tokens: largest number of tokens per chunk; default: the number for which the logits
            of a chunk are at most `share` of `LOSS_CHUNK_LOGITS`.
        share: factor of `LOSS_CHUNK_LOGITS`.
    """
    if chunk_tokens is None:
        allowed = LOSS_CHUNK_LOGITS.get(probe.device.type, LOSS_CHUNK_LOGITS["cpu"])
        chunk_tokens = max(1, int(allowed * share) // probe.shape[-1])
    return max(1, -(-tokens // chunk_tokens))


def _leaf_parameters(output: Tensor) -> list[nn.Parameter]:
    """Find the parameters in the graph of `output`; each is listed once."""
    found: dict[int, nn.Parameter] = {}
    seen, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, nn.Parameter):
            found[id(leaf)] = leaf
        waiting.extend(next_node for next_node, _ in node.next_functions)
    return list(found.values())
