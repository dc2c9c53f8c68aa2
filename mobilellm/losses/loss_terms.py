"""The seam for further losses: a callback that has `loss_terms` is asked in every forward pass.

    class ForwardKLCallback(Callback):
        capture = ()                                   # what `output.captured` has to hold

        def loss_terms(self, module, batch, output):
            return {"forward_kl": LogitTerm(function, weight=0.5)}

The step's loss is the cross entropy plus the weighted terms; each raw value is logged as
`train/loss/<name>`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from mobilellm.losses.chunked import ChunkTerm
from mobilellm.losses.label_losses import IGNORE_INDEX, SoftLabels


@dataclass(frozen=True)
class LossTerm:
    """One further loss of a micro-batch.

    The training step averages it over micro-batches and ranks by their unmasked tokens, so that
    the step's value is the mean over all its unmasked tokens.
    """

    value: Tensor
    """Scalar with a graph: the mean over the micro-batch's unmasked tokens."""
    weight: float = 1.0
    """Factor in the step's loss; the logged value is without it."""


@dataclass(frozen=True)
class LogitTerm:
    """A further loss on the student's logits, which exist for one chunk of tokens at a time."""

    function: Callable[[Tensor, slice], Tensor]
    """(logits (rows, vocab), their place among the micro-batch's tokens) -> scalar with a graph:
    the mean over the chunk's unmasked tokens."""
    weight: float = 1.0
    """Factor in the step's loss; the logged value is without it."""
    chunk_share: float = 0.5
    """As of `ChunkTerm`."""

    def over(self, labels: Tensor) -> ChunkTerm:
        """The same as a sum over the unmasked tokens of each chunk of `labels` (tokens,)."""

        def sum_of(logits: Tensor, place: slice) -> Tensor:
            return self.function(logits, place) * (labels[place] != IGNORE_INDEX).sum()

        return ChunkTerm(sum_of, self.weight, self.chunk_share)


Terms = Mapping[str, LossTerm | LogitTerm | SoftLabels]


@runtime_checkable
class HasLossTerms(Protocol):
    """What a callback needs in order to be asked."""

    def loss_terms(self, module: Any, batch: dict[str, Tensor], output: Any) -> Terms:
        """Terms by name, from the student's forward pass over one micro-batch."""
        ...


def term_sources(callbacks: Iterable[Any]) -> list[HasLossTerms]:
    """The callbacks that add to the loss."""
    return [callback for callback in callbacks if isinstance(callback, HasLossTerms)]


def captures_asked(sources: Iterable[HasLossTerms]) -> tuple[str, ...]:
    """What the forward pass has to keep for them, each name once."""
    return tuple(dict.fromkeys(name for s in sources for name in getattr(s, "capture", ())))
