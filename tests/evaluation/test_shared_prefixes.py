"""Groups of sequences against reading each of them alone."""

import numpy as np
import pytest
import torch

from mobilellm.evaluation.continuations import score_continuations
from mobilellm.evaluation.shared_prefixes import (
    MAX_GROUP_TOKENS,
    group_by_prefix,
    group_mask,
)
from mobilellm.models import MobileLLM, ModelConfig

VOCAB = 40


def model_with(**options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_blocks": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    made = MobileLLM(ModelConfig(vocab_size=VOCAB, **(sizes | options))).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3)
    return made


def random_questions(seed=0, count=30, choices=4):
    """Prompts with several answers, some of which are equal, begin alike, or continue another."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        prompt = rng.integers(0, VOCAB, rng.integers(1, 25)).tolist()
        answers = [rng.integers(0, VOCAB, rng.integers(1, 6)).tolist() for _ in range(choices)]
        answers += [answers[0], [*answers[1], 3], [answers[2][0], 5]]
        pairs += [(prompt, answer) for answer in answers]
    return [pairs[i] for i in rng.permutation(len(pairs))]


def alone(model, prompt, answer):
    """The definition: one row, softmax in float64."""
    row = torch.tensor([*prompt, *answer])
    with torch.no_grad():
        logs = model(row[None]).logits[0].double().log_softmax(-1)
    places = range(len(prompt), len(row))
    likeliest = [int(logs[place - 1].argmax()) == row[place] for place in places]
    return sum(float(logs[place - 1, row[place]]) for place in places), all(likeliest)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"block_repeats": 2, "layer_sharing": "repeat_all"},
        {"block_repeats": 2, "share_kv": "first"},
        {"qk_norm": "l2", "tie_word_embeddings": False},
    ],
    ids=["plain", "repeat_all", "first_kv", "qk_norm"],
)
def test_scores_are_those_of_each_pair_alone(options):
    model = model_with(**options)
    pairs = random_questions(count=8)
    expected = [alone(model, *pair) for pair in pairs]
    for batch_tokens in (30, 100_000):
        found = score_continuations(model, pairs, batch_tokens=batch_tokens)
        for (nats, greedy), score in zip(expected, found, strict=True):
            assert score.log_likelihood == pytest.approx(nats, abs=1e-4)
            assert score.is_greedy == greedy


def test_equal_pairs_have_the_same_score_bit_for_bit():
    """Otherwise rounding would break ties between equal answers."""
    pairs = random_questions(count=10)
    found = score_continuations(model_with(), [*pairs, *pairs], batch_tokens=64)
    assert found[: len(pairs)] == found[len(pairs) :]


def test_shared_tokens_are_read_once():
    model, read = model_with(), []
    model.register_forward_pre_hook(lambda _, given: read.append(given[0].numel()))
    prompt = list(range(20))
    score_continuations(model, [(prompt, [i, i + 1]) for i in range(4)])
    assert read == [20 + 4]
    read.clear()
    score_continuations(model, [(prompt, [i]) for i in range(4)])
    assert read == [20]


def test_groups_hold_every_sequence_once_and_save_tokens():
    rng = np.random.default_rng(1)
    sequences = {tuple(rng.integers(0, 4, rng.integers(1, 12)).tolist()) for _ in range(200)}
    groups = group_by_prefix(sorted(sequences, key=lambda _: rng.random()))
    assert sorted(t for group in groups for t in group.sequences) == sorted(sequences)
    assert sum(group.length for group in groups) < sum(map(len, sequences))
    for group in groups:
        assert len({tokens[: group.prefix] for tokens in group.sequences}) == 1
        for tokens, places in zip(group.sequences, group.places(), strict=True):
            assert [group.tokens[place] for place in places] == list(tokens)
            assert [group.positions[place] for place in places] == list(range(len(tokens)))


def test_the_order_of_the_sequences_does_not_matter():
    rng = np.random.default_rng(2)
    sequences = sorted({tuple(rng.integers(0, 3, 8).tolist()) for _ in range(60)})
    expected = [group.sequences for group in group_by_prefix(sequences)]
    for _ in range(5):
        shuffled = [sequences[i] for i in rng.permutation(len(sequences))]
        assert [group.sequences for group in group_by_prefix(shuffled)] == expected


def test_a_few_equal_first_tokens_are_no_reason_for_a_group():
    """All prompts begin with the begin-of-text token."""
    sequences = [(1, *range(10 * i, 10 * i + 10)) for i in range(5)]
    assert [group.members for group in group_by_prefix(sequences)] == [(i,) for i in range(5)]


def test_rows_stay_short():
    prefix = tuple(range(400))
    groups = group_by_prefix([(*prefix, i, *[i] * 300) for i in range(6)])
    assert max(group.length for group in groups) <= MAX_GROUP_TOKENS
    assert max(len(group.members) for group in groups) > 1


def test_mask_separates_groups_and_branches():
    first, second = group_by_prefix([(7, 8, 1, 2), (7, 8, 3), (9, 4)])
    assert (first.tokens, first.branches) == ([7, 8, 1, 2, 3], [0, 0, 1, 1, 2])
    mask = group_mask([[first, second], [second]])
    assert mask[0, 4].tolist() == [True, True, False, False, True, False, False]
    assert mask[0, 3].tolist() == [True, True, True, True, False, False, False]
    assert mask[0, 6].tolist() == [False] * 5 + [True, True]
    assert mask[1, 1].tolist() == [True, True] + [False] * 5
    assert mask[1, 3].tolist() == [False] * 2 + [True] * 5  # padding


def test_batches_have_hardly_any_padding():
    model, read = model_with(), []
    model.register_forward_pre_hook(lambda _, given: read.append(tuple(given[0].shape)))
    rng = np.random.default_rng(3)
    pairs = [(rng.integers(0, VOCAB, rng.integers(5, 60)).tolist(), [1]) for _ in range(200)]
    score_continuations(model, pairs, batch_tokens=512)
    padded, needed = sum(a * b for a, b in read), sum(len(prompt) for prompt, _ in pairs)
    assert needed <= padded <= 1.05 * needed
    assert max(a * b for a, b in read) <= 512 and max(b for _, b in read) <= 128


def test_rows_may_be_longer_than_the_context():
    model = model_with(max_position_embeddings=24)
    pairs = [(list(range(18)), [i, i + 1, i + 2, 1]) for i in range(8)]
    for pair, score in zip(pairs, score_continuations(model, pairs), strict=True):
        assert score.log_likelihood == pytest.approx(alone(model, *pair)[0], abs=1e-4)
    with pytest.raises(ValueError, match="longer than max_position_embeddings=24"):
        score_continuations(model, [(list(range(24)), [1, 2]), (list(range(24)), [2, 2])])


def test_empty_prompts_and_continuations_are_refused():
    with pytest.raises(ValueError, match="pair 1 has a prompt of 0 tokens and a continuation of 1"):
        score_continuations(model_with(), [([1], [2]), ([], [2])])
    with pytest.raises(ValueError, match="each needs at least 1 token"):
        score_continuations(model_with(), [([1], [])])


def test_positions_are_those_given():
    model = model_with()
    row = torch.randint(VOCAB, (1, 6))
    shifted = model(row, positions=torch.arange(10, 16)[None]).logits
    # Rotary attention depends on differences of positions only.
    assert torch.allclose(shifted, model(row).logits, atol=1e-4)
    with pytest.raises(ValueError, match=r"positions have shape \(1, 5\)"):
        model(row, positions=torch.arange(5)[None])
