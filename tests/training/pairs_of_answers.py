"""Windows of random pairs of answers, for tests of preferences."""

import numpy as np

from mobilellm.data.conversation_windows import PairWindows, keep_whole_pairs
from mobilellm.labels import MARK_REJECTED, MARK_TRAINED


def random_pairs(seed, count, vocab_size, longest=4):
    """A stream of pairs: tokens, marks, and the starts of conversations; one turn in each."""
    generator = np.random.default_rng(seed)
    tokens, marks, starts = [], [], []
    for _ in range(count):
        prompt = generator.integers(3, vocab_size, generator.integers(1, longest)).tolist()
        for mark in (MARK_TRAINED, MARK_REJECTED):
            answer = generator.integers(3, vocab_size, generator.integers(1, longest)).tolist()
            starts.append(len(tokens))
            tokens += [*prompt, *answer]
            marks += [0] * len(prompt) + [mark] * len(answer)
    return np.array(tokens), np.array(marks), np.array(starts)


def pair_windows(seed, count, vocab_size, length, packing="packed"):
    """Windows of those pairs that fit."""
    tokens, marks, starts = random_pairs(seed, count, vocab_size)
    kept = keep_whole_pairs(starts, starts, len(tokens), length)
    return PairWindows(tokens, marks, kept.bounds, length, packing=packing, padding=2)
