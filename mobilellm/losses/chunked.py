"""Losses on logits over a large vocabulary without ever holding all logits.

Logits are made for one chunk of tokens at a time, once for the cross entropy and all further
losses, and their gradients with respect to the hidden states and to whatever parameters `unembed`
uses (a tied table, a head, factors) at once in the forward pass.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mobilellm.accounting.training_memory import LOSS_CHUNK_LOGITS
from mobilellm.losses.label_losses import SoftLabels, label_losses

Unembed = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ChunkTerm:
    """A further loss on logits."""

    function: Callable[[Tensor, slice], Tensor]
    """(logits (rows, vocab), their place among all tokens) -> sum over the chunk's tokens."""
    weight: float = 1.0
    """Factor in the total."""
    chunk_share: float = 0.5
    """Chunks are so much smaller than for the cross entropy alone: a loss that keeps buffers of the
    logits' size for its gradient needs room for them."""


Term = ChunkTerm | SoftLabels


@dataclass(frozen=True)
class LossSums:
    """Sums over all tokens, in float32."""

    total: Tensor
    """Weighted sum of all losses; it can be back-propagated once."""
    token_losses: Tensor
    """Cross entropy of each token in nats (...), 0 where there is no label; no gradient."""
    terms: Tensor
    """Sum of each term, without its weight (terms,); no gradient."""


def chunked_losses(
    hidden: Tensor,
    unembed: Unembed,
    labels: Tensor,
    *,
    label_weights: Tensor | None = None,
    cross_entropy_weight: float = 1.0,
    terms: Sequence[Term] = (),
    chunk_tokens: int | None = None,
) -> LossSums:
    """Cross entropy and further losses on the logits of all tokens.

    Memory for logits is that of one chunk. Softmax and sums run in float32 whatever the input type.

    Args:
        hidden: (..., hidden), as `unembed` takes it.
        unembed: hidden states to logits (tokens, vocab); row by row.
        labels: (...), token ids; -100 counts for nothing in the cross entropy.
        label_weights: (...), factor of each token's cross entropy; default: 1.
        cross_entropy_weight: factor of the cross entropy as a whole.
        terms: further losses.
        chunk_tokens: tokens per chunk; default: as many as `LOSS_CHUNK_LOGITS` allows.

    Raises:
        ValueError: shapes that do not fit, a chunk of no tokens.
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
    # No rows, no cost: this only shows what unembed is made of.
    probe = unembed(hidden[:0].detach())
    share = min((t.chunk_share for t in terms if isinstance(t, ChunkTerm)), default=1.0)
    plan = _Plan(
        unembed=unembed,
        labels=labels,
        weights=cross_entropy_weight if weights is None else weights,
        terms=tuple(terms),
        chunks=num_chunks(hidden.shape[0], probe, chunk_tokens, share),
    )
    if not (torch.is_grad_enabled() and (hidden.requires_grad or probe.requires_grad)):
        total, losses, sums = _sums(hidden, plan)
    else:
        parameters = _leaf_parameters(probe)
        total, losses, sums = _ChunkedLosses.apply(hidden, plan, *parameters)  # pyright: ignore
    return LossSums(total, losses.view(shape), sums)


@dataclass(frozen=True)
class _Plan:
    """What the passes over the chunks need beside the hidden states."""

    unembed: Unembed
    labels: Tensor
    weights: Tensor | float
    terms: tuple[Term, ...]
    chunks: int

    def pieces(self, hidden: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Chunks of nearly equal size: their place, hidden states and labels."""
        start = 0
        for rows, targets in pairs(hidden, self.labels, self.chunks):
            yield slice(start, start + rows.shape[0]), rows, targets
            start += rows.shape[0]

    @property
    def soft(self) -> list[int]:
        """Which of the terms are soft labels."""
        return [i for i, term in enumerate(self.terms) if isinstance(term, SoftLabels)]

    def soft_labels(self, place: slice) -> list[tuple[Tensor, float]]:
        """The teachers' logits of a chunk, and their weights."""
        return [(t.logits(place), t.weight) for t in self.terms if isinstance(t, SoftLabels)]

    def weighted(self, sums: Tensor) -> Tensor:
        """Sum of the terms (terms,) with their weights."""
        return sum((s * term.weight for s, term in zip(sums, self.terms, strict=True)),
                   sums.new_zeros(()))  # fmt: skip

    def weight_of(self, place: slice) -> Tensor | float:
        """Factor of each token's cross entropy."""
        return self.weights[place] if isinstance(self.weights, Tensor) else self.weights


class _ChunkedLosses(torch.autograd.Function):
    """The gradients are made in the forward pass; backward scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, plan: _Plan, *parameters: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        # One allocation: pieces put together at the end leave holes that the heap keeps.
        hidden_gradient = torch.empty_like(hidden)
        gradients: list[Tensor | None] = [None] * len(parameters)
        total, token_losses, sums = _empty_sums(hidden, plan)
        for place, rows, targets in plan.pieces(hidden.detach()):
            with torch.enable_grad():
                inputs = [rows.requires_grad_(), *parameters]
                logits = plan.unembed(inputs[0])
            weight = plan.weight_of(place)
            found = label_losses(logits.detach(), targets, weight, plan.soft_labels(place))
            token_losses[place], soft, slope = found
            total += (token_losses[place] * weight).sum()
            sums[plan.soft] += soft
            for index, term in enumerate(plan.terms):
                if isinstance(term, ChunkTerm):
                    leaf = logits.detach().requires_grad_()
                    with torch.enable_grad():
                        value = term.function(leaf, place)
                    sums[index] += value.detach()
                    if term.weight:
                        slope.add_(torch.autograd.grad(value, leaf)[0], alpha=term.weight)
            made = torch.autograd.grad(logits, inputs, slope.to(logits.dtype))
            hidden_gradient[place] = made[0]
            gradients = [
                new if old is None else old.add_(new)
                for old, new in zip(gradients, made[1:], strict=True)
            ]
        total += plan.weighted(sums)
        ctx.gradients = [hidden_gradient, *gradients]
        ctx.mark_non_differentiable(token_losses, sums)
        return total, token_losses, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, *_: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if ctx.gradients is None:
            raise RuntimeError("the chunked losses can be back-propagated only once")
        hidden, *gradients = (gradient.mul_(scale) for gradient in ctx.gradients)
        ctx.gradients = None
        return hidden, None, *gradients


def _empty_sums(hidden: Tensor, plan: _Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Total, token losses and sums of terms, all 0."""
    options: dict[str, Any] = {"dtype": torch.float32, "device": hidden.device}
    return (
        torch.zeros((), **options),
        torch.zeros(hidden.shape[0], **options),
        torch.zeros(len(plan.terms), **options),
    )


def _sums(hidden: Tensor, plan: _Plan) -> tuple[Tensor, Tensor, Tensor]:
    """The same without gradients."""
    total, token_losses, sums = _empty_sums(hidden, plan)
    for place, rows, targets in plan.pieces(hidden):
        logits = plan.unembed(rows)
        weight = plan.weight_of(place)
        found = label_losses(logits, targets, weight, plan.soft_labels(place), slope=False)
        token_losses[place], soft, _ = found
        total += (token_losses[place] * weight).sum()
        sums[plan.soft] += soft
        for index, term in enumerate(plan.terms):
            if isinstance(term, ChunkTerm):
                sums[index] += term.function(logits, place)
    return total + plan.weighted(sums), token_losses, sums


def pairs(hidden: Tensor, labels: Tensor, chunks: int) -> Any:
    """Chunks of rows and their labels, of nearly equal size."""
    return zip(hidden.tensor_split(chunks), labels.tensor_split(chunks), strict=True)


def num_chunks(
    tokens: int, probe: Tensor, chunk_tokens: int | None = None, share: float = 1.0
) -> int:
    """Chunks of at most `chunk_tokens` tokens, or of `share` of the logits allowed at a time."""
    if chunk_tokens is None:
        allowed = LOSS_CHUNK_LOGITS.get(probe.device.type, LOSS_CHUNK_LOGITS["cpu"])
        chunk_tokens = max(1, int(allowed * share) // probe.shape[-1])
    return max(1, -(-tokens // chunk_tokens))


def _leaf_parameters(output: Tensor) -> list[nn.Parameter]:
    """The parameters that `output` was made from, each once."""
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
