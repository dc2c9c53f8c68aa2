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
    """Losses of a unigram model (no context) and of a bigram model (a context of one token)."""

    unigram_nats_per_token: float
    bigram_nats_per_token: float


class UnigramModel:
    """Token frequencies with add-one smoothing.

    Args:
        tokens: training tokens, (tokens,).
        vocab_size: size of the vocabulary.
    """

    def __init__(self, tokens: NDArray[Any], vocab_size: int) -> None:
        """Count the tokens."""
        counts = np.zeros(vocab_size, dtype=np.int64)
        # In chunks, because bincount makes a copy of four times the size.
        for start in range(0, len(tokens), _CHUNK):
            counts += np.bincount(tokens[start : start + _CHUNK], minlength=vocab_size)
        self.log_probabilities = np.log(counts + 1) - np.log(len(tokens) + vocab_size)

    def loss(self, tokens: NDArray[Any]) -> float:
        """Sum of the losses in nats over all tokens except the first, which is only context."""
        return float(-self.log_probabilities[tokens[1:]].sum())


class BigramModel:
    """Interpolated Kneser-Ney smoothing of token pairs.

    P(b | a) = max(c(a b) - d, 0) / c(a) + d N(a ·) / c(a) P(b). P(b) increases with the number of
    different tokens that precede b, and N(a ·) is the number of different tokens that follow a. The
    discount d follows from the numbers of pairs that occur once and twice; it is 1/2 if there are
    none, as in a corpus with two copies of each document, because an unseen pair would have
    probability 0 with d = 0. If a was never seen, P(b | a) = P(b).

    Args:
        tokens: training tokens, (tokens,).
        vocab_size: size of the vocabulary.

    Source: Chen and Goodman 1999, "An empirical study of smoothing techniques for language
    modeling", section 2.7 and equation (17); the discount after Ney, Essen and Kneser 1994.
    Differs: one is added to each continuation count, so that P(b) is never zero.
    """

    def __init__(self, tokens: NDArray[Any], vocab_size: int) -> None:
        """Count the pairs; this needs a few times the memory of the tokens."""
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
        indices = np.searchsorted(self._pairs, keys).clip(max=len(self._pairs) - 1)
        counts = np.where(self._pairs[indices] == keys, self._counts[indices], 0)
        totals = self._totals[first]
        seen = np.maximum(totals, 1)
        direct = np.maximum(counts - self.discount, 0) / seen
        rest = np.where(totals > 0, self.discount * self._followers[first] / seen, 1)
        return direct + rest * self._continuation[second]

    def loss(self, tokens: NDArray[Any]) -> float:
        """Sum of the losses in nats over all tokens except the first."""
        return float(-np.log(self.probabilities(tokens[:-1], tokens[1:])).sum())

    def _keys(self, first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
        dtype = np.uint32 if self._vocab_size <= 1 << 16 else np.uint64
        # In place, because there are up to MAX_TRAIN_TOKENS keys.
        keys = first.astype(dtype)
        keys *= dtype(self._vocab_size)
        np.add(keys, second, out=keys, casting="unsafe")
        return keys

    def _count_pairs(self, tokens: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The distinct pairs, sorted, and the number of occurrences of each."""
        keys = self._keys(tokens[:-1], tokens[1:])
        keys.sort()
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        return keys[starts], np.diff(np.append(starts, len(keys)))


def measure_baselines(
    train: TokenSequence, validation: TokenSequence, vocab_size: int
) -> Baselines:
    """Fit both models on training tokens, and measure their validation loss in nats per token.

    Args:
        train: at least two tokens; at most MAX_TRAIN_TOKENS are used, in chunks spread evenly.
        validation: at least two tokens; all of them are used.
        vocab_size: size of the vocabulary.
    """
    tokens = _sample_chunks(train, MAX_TRAIN_TOKENS)
    sums = []
    for model in (UnigramModel(tokens, vocab_size), BigramModel(tokens, vocab_size)):
        # Chunks overlap by one token, which is the context of the first loss of the next chunk.
        sums.append(
            sum(
                model.loss(validation[start : start + _CHUNK + 1])
                for start in range(0, len(validation) - 1, _CHUNK)
            )
        )
    unigram, bigram = (total / (len(validation) - 1) for total in sums)
    return Baselines(unigram, bigram)


def _sample_chunks(tokens: TokenSequence, most: int) -> NDArray[Any]:
    """At most `most` tokens, in chunks spread evenly over the stream."""
    if len(tokens) <= most:
        return tokens[0 : len(tokens)]
    size = most // 64
    starts = np.linspace(0, len(tokens) - size, 64).astype(np.int64).tolist()
    return np.concatenate([tokens[start : start + size] for start in starts])
