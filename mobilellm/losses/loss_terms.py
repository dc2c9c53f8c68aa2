"""Extension point for losses: callbacks with a method `loss_terms`.

The method is called in every forward pass of the training:

    class ForwardKLCallback(Callback):
        capture = ()                                   # names to capture in `output.captured`

        def loss_terms(self, module, batch, output):
            return {"forward_kl": LogitTerm(function, weight=0.5)}

        def label_weight(self, module):                # optional
            return 0.5

The loss of a step is `label_weight` times the cross entropy, plus the weighted sum of the terms.
Each term is logged without its weight as `train/loss/<name>`.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from mobilellm.labels import IGNORE_INDEX
from mobilellm.losses.chunked import ChunkTerm
from mobilellm.losses.label_losses import SoftLabels


@dataclass(frozen=True)
class LossTerm:
    """An additional loss of a micro-batch.

    The loss of a step is the mean over micro-batches and ranks, weighted by their numbers of
    unmasked tokens, and hence the mean over all unmasked tokens of the step.
    """

    value: Tensor
    """Mean over the unmasked tokens of the micro-batch: a scalar with a gradient."""
    weight: float = 1.0
    """Factor in the loss of the step. The logged value is not multiplied by it."""


@dataclass(frozen=True)
class LogitTerm:
    """An additional loss on the logits, which is computed for one chunk of tokens at a time."""

    function: Callable[[Tensor, slice], Tensor]
    """Maps the logits (rows, vocab) of a chunk and its range among the tokens of the micro-batch to
    the mean over the unmasked tokens of the chunk: a scalar with a gradient."""
    weight: float = 1.0
    """Factor in the loss of the step. The logged value is not multiplied by it."""
    chunk_share: float = 0.5
    """See `ChunkTerm.chunk_share`."""

    def as_chunk_term(self, labels: Tensor) -> ChunkTerm:
        """Convert means over unmasked tokens to sums, given the labels (tokens,)."""

        def sum_of(logits: Tensor, place: slice) -> Tensor:
            return self.function(logits, place) * (labels[place] != IGNORE_INDEX).sum()

        return ChunkTerm(sum_of, self.weight, self.chunk_share)


@dataclass(frozen=True)
class PairTerm:
    """An additional loss on pairs of answers.

    The loss of a step is the mean over all pairs of the step.
    """

    value: Tensor
    """Sum over the pairs of the micro-batch: a scalar with a gradient."""
    weight: float = 1.0
    """Factor in the loss of the step. The logged value is not multiplied by it."""


Terms = Mapping[str, LossTerm | LogitTerm | PairTerm | SoftLabels]


@runtime_checkable
class HasLossTerms(Protocol):
    """A callback that adds terms to the loss."""

    def loss_terms(self, module: Any, batch: dict[str, Tensor], output: Any) -> Terms:
        """Terms by name, from a forward pass over one micro-batch.

        Args:
            module: the LanguageModelModule that is trained.
            batch: `input_ids` and `labels`, each (batch, seq), and optional entries.
            output: the `ModelOutput` of its model, with the names in `capture` captured.
        """
        ...


@runtime_checkable
class HasLabelWeight(Protocol):
    """A callback that sets the weight of the cross entropy."""

    def label_weight(self, module: Any) -> float:
        """Factor of the cross entropy in the current step."""
        ...


@runtime_checkable
class HasTaskWeights(Protocol):
    """A callback that sets the weights of the tasks in the data."""

    task_weights: Mapping[str, float]
    """Weight of the mean cross entropy of each task by name, in the order of the task numbers."""


def term_sources(callbacks: Iterable[Any]) -> list[HasLossTerms]:
    """Select the callbacks that add terms to the loss."""
    return [callback for callback in callbacks if isinstance(callback, HasLossTerms)]


def task_weights_of(callbacks: Iterable[Any]) -> dict[str, float]:
    """Collect the weights of the tasks; empty if no callback sets them."""
    weights: dict[str, float] = {}
    for callback in callbacks:
        if isinstance(callback, HasTaskWeights):
            weights |= callback.task_weights
    return weights


def label_weight_of(sources: Iterable[HasLossTerms], module: Any) -> float:
    """Factor of the cross entropy: the product of the weights that callbacks set, or 1."""
    weights = (s.label_weight(module) for s in sources if isinstance(s, HasLabelWeight))
    return math.prod(weights, start=1.0)


def requested_captures(sources: Iterable[HasLossTerms]) -> tuple[str, ...]:
    """Names that the forward pass has to capture for the callbacks, without duplicates."""
    return tuple(dict.fromkeys(name for s in sources for name in getattr(s, "capture", ())))
