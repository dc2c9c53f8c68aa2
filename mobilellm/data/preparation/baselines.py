"""Baselines that a model must beat: unigram and bigram language models."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilellm.data.shards import TokenSequence

MAX_TRAIN_TOKENS = 20_000_000
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Baselines:
    """Losses of models without context, or with one token of it."""

    unigram_nats_per_token: float
    bigram_nats_per_token: float


class UnigramModel:
    """Frequencies with one added to each count.

    Args:
        tokens: training tokens, (tokens,).
        vocab_size: ids are below this.
    """

    def __init__(self, tokens: NDArray[Any], vocab_size: int) -> None:
        """Count."""
        counts = np.zeros(vocab_size, dtype=np.int64)
        # In chunks, since bincount works on a copy four times the size.
        for start in range(0, len(tokens), _CHUNK):
            counts += np.bincount(tokens[start : start + _CHUNK], minlength=vocab_size)
        self.log_probabilities = np.log(counts + 1) - np.log(len(tokens) + vocab_size)

    def loss(self, tokens: NDArray[Any]) -> float:
        """Sum of nats over all tokens but the first, which no model is asked to predict."""
        return float(-self.log_probabilities[tokens[1:]].sum())


class BigramModel:
    """Interpolated Kneser-Ney: pairs discounted, the rest shared out by how many tokens precede.

    P(b | a) = max(c(a b) - d, 0) / c(a) + d N(a ·) / c(a) P(b), where P(b) grows with the number
    of different tokens seen before b, N(a ·) is that of those seen after a, and d follows from how
    many pairs occur once and twice (1/2 where none do, as in a corpus that holds each document
    twice: with d = 0 an unseen pair would be impossible). After an `a` that was never seen it is
    P(b).

    Args:
        tokens: training tokens, (tokens,).
        vocab_size: ids are below this.

    Source: Chen and Goodman 1999, "An empirical study of smoothing techniques for language
    modeling", section 2.7 and equation (17); the discount after Ney, Essen and Kneser 1994.
    Differs: one is added to each continuation count, so that P(b) is never zero.
    """

    def __init__(self, tokens: NDArray[Any], vocab_size: int) -> None:
        """Count pairs; memory is a few times that of the tokens."""
        self._vocab_size = vocab_size
        self._pairs, self._counts = self._count_pairs(tokens)
        first, second = np.divmod(self._pairs, self._pairs.dtype.type(vocab_size))
        self._followers = np.bincount(first, minlength=vocab_size)
        self._totals = np.bincount(first, weights=self._counts, minlength=vocab_size)
        preceding = np.bincount(second, minlength=vocab_size)
        self._continuation = (preceding + 1) / (len(self._pairs) + vocab_size)
        once, twice = (int((self._counts == n).sum()) for n in (1, 2))
        self.discount = once / (once + 2 * twice) if once and twice else 0.5

    def probabilities(self, first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
        """P(second | first), elementwise."""
        keys = self._keys(first, second)
        places = np.searchsorted(self._pairs, keys).clip(max=len(self._pairs) - 1)
        counts = np.where(self._pairs[places] == keys, self._counts[places], 0)
        totals = self._totals[first]
        seen = np.maximum(totals, 1)
        direct = np.maximum(counts - self.discount, 0) / seen
        rest = np.where(totals > 0, self.discount * self._followers[first] / seen, 1)
        return direct + rest * self._continuation[second]

    def loss(self, tokens: NDArray[Any]) -> float:
        """Sum of nats over all tokens but the first."""
        return float(-np.log(self.probabilities(tokens[:-1], tokens[1:])).sum())

    def _keys(self, first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
        dtype = np.uint32 if self._vocab_size <= 1 << 16 else np.uint64
        # In place: there are up to MAX_TRAIN_TOKENS of them.
        keys = first.astype(dtype)
        keys *= dtype(self._vocab_size)
        np.add(keys, second, out=keys, casting="unsafe")
        return keys

    def _count_pairs(self, tokens: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The different pairs, sorted, and how often each occurs."""
        keys = self._keys(tokens[:-1], tokens[1:])
        keys.sort()
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        return keys[starts], np.diff(np.append(starts, len(keys)))


def measure_baselines(
    train: TokenSequence, validation: TokenSequence, vocab_size: int
) -> Baselines:
    """Fit both models on training tokens, in nats per token of the whole validation split.

    Args:
        train: at least two tokens; MAX_TRAIN_TOKENS at most are counted, in chunks spread evenly.
        validation: at least two tokens; all of it is measured.
        vocab_size: ids are below this.
    """
    tokens = _spread(train, MAX_TRAIN_TOKENS)
    sums = []
    for model in (UnigramModel(tokens, vocab_size), BigramModel(tokens, vocab_size)):
        # Chunks overlap by one, the token that the next chunk's first follows.
        sums.append(
            sum(
                model.loss(validation[start : start + _CHUNK + 1])
                for start in range(0, len(validation) - 1, _CHUNK)
            )
        )
    unigram, bigram = (total / (len(validation) - 1) for total in sums)
    return Baselines(unigram, bigram)


def _spread(tokens: TokenSequence, most: int) -> NDArray[Any]:
    """At most `most` tokens, in chunks spread evenly over the stream."""
    if len(tokens) <= most:
        return tokens[0 : len(tokens)]
    size = most // 64
    starts = np.linspace(0, len(tokens) - size, 64).astype(np.int64).tolist()
    return np.concatenate([tokens[start : start + size] for start in starts])
