"""Extension point for losses: callbacks with `loss_terms` are asked in every forward pass.

    class ForwardKLCallback(Callback):
        capture = ()                                   # what `output.captured` has to hold

        def loss_terms(self, module, batch, output):
            return {"forward_kl": LogitTerm(function, weight=0.5)}

        def label_weight(self, module):                # optional
            return 0.5

The loss of a step is the cross entropy of the labels, times `label_weight`, plus the weighted
terms. Each value is logged without its weight as `train/loss/<name>`.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from mobilellm.losses.chunked import ChunkTerm
from mobilellm.losses.label_losses import IGNORE_INDEX, SoftLabels


@dataclass(frozen=True)
class LossTerm:
    """One further loss of a micro-batch.

    The training step averages it over micro-batches and ranks, weighted by their unmasked tokens:
    the value of the step is the mean over all of its unmasked tokens.
    """

    value: Tensor
    """Scalar with a gradient: the mean over the micro-batch's unmasked tokens."""
    weight: float = 1.0
    """Factor in the loss of the step; the logged value is without it."""


@dataclass(frozen=True)
class LogitTerm:
    """A further loss on the logits, of which only one chunk of tokens is in memory at a time."""

    function: Callable[[Tensor, slice], Tensor]
    """(logits (rows, vocab), range of the chunk among the micro-batch's tokens) -> scalar with a
    gradient: the mean over the chunk's unmasked tokens."""
    weight: float = 1.0
    """Factor in the loss of the step; the logged value is without it."""
    chunk_share: float = 0.5
    """See `ChunkTerm.chunk_share`."""

    def over(self, labels: Tensor) -> ChunkTerm:
        """The same loss as sums over the unmasked tokens of chunks; `labels` (tokens,)."""

        def sum_of(logits: Tensor, place: slice) -> Tensor:
            return self.function(logits, place) * (labels[place] != IGNORE_INDEX).sum()

        return ChunkTerm(sum_of, self.weight, self.chunk_share)


Terms = Mapping[str, LossTerm | LogitTerm | SoftLabels]


@runtime_checkable
class HasLossTerms(Protocol):
    """A callback that adds terms to the loss."""

    def loss_terms(self, module: Any, batch: dict[str, Tensor], output: Any) -> Terms:
        """Terms by name, from a forward pass over one micro-batch.

        Args:
            module: the LanguageModelModule that is trained.
            batch: `input_ids` and `labels`, each (batch, seq), and perhaps more.
            output: the `ModelOutput` of its model, with the captures that were asked for.
        """
        ...


@runtime_checkable
class HasLabelWeight(Protocol):
    """A callback that scales the cross entropy of the labels beside its own terms."""

    def label_weight(self, module: Any) -> float:
        """Factor of the cross entropy in the present step."""
        ...


@runtime_checkable
class HasTaskWeights(Protocol):
    """A callback that weights the tasks that the data distinguishes."""

    task_weights: Mapping[str, float]
    """Weight of each task's mean cross entropy, in the order of the tasks' numbers."""


def term_sources(callbacks: Iterable[Any]) -> list[HasLossTerms]:
    """The callbacks that add terms to the loss."""
    return [callback for callback in callbacks if isinstance(callback, HasLossTerms)]


def task_weights_of(callbacks: Iterable[Any]) -> dict[str, float]:
    """The weights of the tasks; empty if no callback weights them."""
    weights: dict[str, float] = {}
    for callback in callbacks:
        if isinstance(callback, HasTaskWeights):
            weights |= callback.task_weights
    return weights


def label_weight_of(sources: Iterable[HasLossTerms], module: Any) -> float:
    """Factor of the labels' cross entropy: the product of what the sources ask for, else 1."""
    weights = (s.label_weight(module) for s in sources if isinstance(s, HasLabelWeight))
    return math.prod(weights, start=1.0)


def requested_captures(sources: Iterable[HasLossTerms]) -> tuple[str, ...]:
    """What the forward pass has to capture for the sources, each name once."""
    return tuple(dict.fromkeys(name for s in sources for name in getattr(s, "capture", ())))
