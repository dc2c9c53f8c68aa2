import math
from collections import Counter

import numpy as np
import pytest

from mobilellm.data.preparation import baselines
from mobilellm.data.preparation.baselines import BigramModel, UnigramModel, measure_baselines


def random_tokens(size, vocab, seed):
    # Squared, so that some tokens are frequent and some pairs never occur.
    return (np.random.default_rng(seed).random(size) ** 3 * vocab).astype(np.uint16)


def test_unigram_is_add_one():
    tokens = np.array([0, 1, 1, 3], np.uint16)
    model = UnigramModel(tokens, 5)
    assert np.allclose(np.exp(model.log_probabilities), np.array([2, 3, 1, 2, 1]) / 9)
    assert model.loss(np.array([4, 1, 3])) == pytest.approx(-math.log(3 / 9) - math.log(2 / 9))


@pytest.mark.parametrize("vocab", [7, 40, 70_000])
def test_bigram_probabilities_sum_to_one(vocab):
    tokens = random_tokens(500, min(vocab, 40), 1).astype(np.uint32)
    model = BigramModel(tokens, vocab)
    everything = np.arange(vocab)
    for first in (*range(7), vocab - 1):
        assert model.probabilities(np.full(vocab, first), everything).sum() == pytest.approx(1)


def test_bigram_equals_the_formula():
    tokens = random_tokens(400, 12, 2)
    pairs = Counter(zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True))
    once, twice = (sum(c == n for c in pairs.values()) for n in (1, 2))
    d = once / (once + 2 * twice)
    model = BigramModel(tokens, 12)
    assert model.discount == pytest.approx(d)
    for a in range(12):
        total = sum(c for (x, _), c in pairs.items() if x == a)
        followers = sum(x == a for x, _ in pairs)
        for b in range(12):
            lower = (sum(y == b for _, y in pairs) + 1) / (len(pairs) + 12)
            expected = lower
            if total:
                expected = max(pairs[a, b] - d, 0) / total + d * followers / total * lower
            assert model.probabilities(np.array([a]), np.array([b]))[0] == pytest.approx(expected)


def test_losses_are_per_target_token_whatever_the_chunks(monkeypatch):
    train, validation = random_tokens(3000, 30, 3), random_tokens(1001, 30, 4)
    whole = measure_baselines(train, validation, 30)
    unigram, bigram = UnigramModel(train, 30), BigramModel(train, 30)
    assert whole.unigram_nats_per_token == pytest.approx(unigram.loss(validation) / 1000)
    assert whole.bigram_nats_per_token == pytest.approx(bigram.loss(validation) / 1000)
    monkeypatch.setattr(baselines, "_CHUNK", 100)
    chunked = measure_baselines(train, validation, 30)
    assert chunked.unigram_nats_per_token == pytest.approx(whole.unigram_nats_per_token)
    assert chunked.bigram_nats_per_token == pytest.approx(whole.bigram_nats_per_token)


def test_losses_reach_the_entropy_of_a_known_source():
    # A Markov chain: from each state the next one or the one after, 3 to 1.
    generator = np.random.default_rng(0)
    steps = 1 + (generator.random(200_000) < 0.25)
    tokens = (np.cumsum(steps) % 16).astype(np.uint16)
    found = measure_baselines(tokens[:150_000], tokens[150_000:], 16)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found.bigram_nats_per_token == pytest.approx(entropy, abs=0.01)
    assert found.unigram_nats_per_token == pytest.approx(math.log(16), abs=0.01)


def test_long_streams_are_sampled(monkeypatch):
    tokens = random_tokens(100_000, 30, 5)
    monkeypatch.setattr(baselines, "MAX_TRAIN_TOKENS", 10_000)
    found = measure_baselines(tokens, random_tokens(5000, 30, 6), 30)
    monkeypatch.undo()
    whole = measure_baselines(tokens, random_tokens(5000, 30, 6), 30)
    assert found.unigram_nats_per_token == pytest.approx(whole.unigram_nats_per_token, abs=0.02)


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_unseen_pairs_are_possible_where_no_pair_occurs_once(copies):
    tokens = np.tile(random_tokens(300, 20, 7), copies)
    # Every pair that occurs, the one across the border too, occurs `copies` times.
    tokens = np.concatenate([tokens, tokens[:1]])
    model = BigramModel(tokens, 30)
    everything = np.arange(30)
    for first in range(30):
        found = model.probabilities(np.full(30, first), everything)
        assert (found > 0).all()
        assert found.sum() == pytest.approx(1)
    assert math.isfinite(model.loss(random_tokens(300, 30, 8)))
