"""A mixture of several corpora in given shares."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellm.data.config import DataConfig
from mobilellm.data.source import Chunk, Source, Split
from mobilellm.ranges import Range, check_value

WEIGHT = Range(above=0, cap=1e9, remedy="remove a source from data.sources to use none of it")


@dataclass(frozen=True, kw_only=True)
class Mixture(Source):
    """Interleaves the documents of several sources so that each has its share of the text.

    The next document always comes from the source that is furthest behind its share of the bytes of
    UTF-8 text so far. The shares are therefore exact to within one document at any point, and the
    order is deterministic. The mixture ends when the next source has no more documents: nothing is
    repeated, and the remaining documents of the other sources are not used.

    Raises:
        ValueError: there are no sources, a weight is not positive, or a source has token ids.
        TypeError: an entry of `sources` is not a source.
    """

    sources: Mapping[str, Source]
    """Sources such as `TextFiles` or `HubDataset`, by names of your choice."""
    weights: Mapping[str, float]
    """Share of each source in the bytes of training text; only the ratios matter."""

    def __post_init__(self) -> None:
        """Check the sources and weights."""
        self.check_values()
        object.__setattr__(self, "sources", dict(self.sources))
        object.__setattr__(self, "weights", dict(self.weights))
        if not self.sources:
            raise ValueError("data.sources is empty; give at least one source")
        for name, source in self.sources.items():
            if not isinstance(source, Source):
                raise TypeError(
                    f"data.sources.{name} is a {type(source).__name__}; give it a _target_ such as "
                    "mobilellm.data.TextFiles"
                )
            if source.is_tokenized:
                raise ValueError(
                    f"data.sources.{name} has token ids, whose text is not known; mix sources "
                    "of text only, or prepare this source alone"
                )
        self._check_weights()
        without = [name for name, source in self.sources.items() if not source.has_validation]
        if without and len(without) < len(self.sources):
            raise ValueError(
                f"data.sources.{without[0]} has no validation split, but others have; give every "
                "source one, or none and set data.held_out"
            )
        super().__post_init__()

    def _check_weights(self) -> None:
        if self.weights.keys() != self.sources.keys():
            raise ValueError(
                f"data.weights is given for {', '.join(self.weights) or 'nothing'}, data.sources "
                f"for {', '.join(self.sources)}; give one weight per source"
            )
        for name, weight in self.weights.items():
            check_value(f"data.weights.{name}", weight, float, WEIGHT)

    @property
    def has_validation(self) -> bool:
        """Whether every source has a validation split."""
        return all(source.has_validation for source in self.sources.values())

    @property
    def is_local(self) -> bool:
        """Whether every source is on this machine."""
        return all(source.is_local for source in self.sources.values())

    @property
    def default_name(self) -> str:
        """The sources' names, joined."""
        return "+".join(dict.fromkeys(source.default_name for source in self.sources.values()))

    def identity(self) -> Mapping[str, Any]:
        """The identities of the sources, and the weights."""
        total = sum(self.weights.values())
        return {
            "format": "mixture",
            "sources": {name: dict(source.identity()) for name, source in self.sources.items()},
            "shares": {name: round(weight / total, 9) for name, weight in self.weights.items()},
        }

    def files(self, split: Split) -> list[Path]:
        """The local files of all sources."""
        return [file for source in self.sources.values() for file in source.files(split)]

    def chunks(self, split: Split) -> Iterator[Chunk]:
        """Training documents interleaved; all validation documents, one source after another."""
        streams = [source.chunks(split) for source in self.sources.values()]
        if split == "train":
            yield from _interleave(streams, [self.weights[name] for name in self.sources])
        else:
            yield from itertools.chain.from_iterable(streams)


@dataclass(frozen=True, kw_only=True)
class MixtureData(Mixture, DataConfig):
    """Training data mixed from several sources: `data=mixture`."""


def _interleave(streams: list[Iterator[Chunk]], weights: Sequence[float]) -> Iterator[Chunk]:
    """Whole documents, each from the stream with the fewest bytes per weight so far."""
    sizes = [0] * len(streams)
    while True:
        turn = min(range(len(streams)), key=lambda i: (sizes[i] / weights[i], i))
        for chunk in streams[turn]:
            sizes[turn] += len(chunk.content)
            yield chunk
            if chunk.ends_document:
                break
        else:
            return
