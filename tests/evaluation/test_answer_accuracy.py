"""Accuracy against doing it one by one, with torch's log softmax and the project's own decoding."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from mobilellm.data.prepared_prompts import Question
from mobilellm.evaluation.answer_accuracy import Accuracy, answer_accuracy, wilson_interval
from mobilellm.evaluation.continuations import score_continuations
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.generation import generate

VOCAB, EOS = 23, 2


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = MobileLLM(
        ModelConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=48,
            num_blocks=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )
    # Far from uniform, so that choices differ by more than rounding.
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3)
    return made


def tokens(rng, most):
    return rng.integers(3, VOCAB, rng.integers(1, most)).astype(np.uint16)


def questions(count=40, choices=4, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        given = tuple(np.append(tokens(rng, 6), EOS) for _ in range(choices))
        label = given[rng.integers(choices)]
        made.append(Question(tokens(rng, 30), label, given))
    return made


def naive_log_likelihood(model, prompt, continuation):
    """One row, no padding, float64 softmax."""
    row = torch.tensor([*prompt.tolist(), *continuation.tolist()])
    logs = model(row[None]).logits[0].double().log_softmax(-1)
    places = range(len(prompt), len(row))
    return sum(float(logs[place - 1, row[place]].detach()) for place in places)


def test_scores_are_those_of_one_row_at_a_time(model):
    pairs = [(q.prompt, choice) for q in questions() for choice in q.choices]
    expected = [naive_log_likelihood(model, *pair) for pair in pairs]
    for batch_tokens in (1, 100, 8192):
        scores = score_continuations(model, pairs, batch_tokens=batch_tokens)
        assert [score.log_likelihood for score in scores] == pytest.approx(expected, abs=1e-4)


def test_batches_hold_no_more_than_they_may(model):
    sizes = []
    handle = model.register_forward_pre_hook(lambda _, args: sizes.append(args[0].numel()))
    pairs = [(q.prompt, q.label) for q in questions()]
    score_continuations(model, pairs, batch_tokens=100)
    handle.remove()
    assert max(sizes) <= 100
    assert len(sizes) < len(pairs) / 2


@pytest.mark.parametrize("per_token", [False, True])
def test_the_likeliest_choice_is_the_answer(model, per_token):
    asked, right = questions(), 0
    for question in asked:
        values = [
            naive_log_likelihood(model, question.prompt, choice) / (len(choice) if per_token else 1)
            for choice in question.choices
        ]
        best = question.choices[values.index(max(values))]
        right += best.tolist() == question.label.tolist()
    accuracy = answer_accuracy(model, asked, per_token=per_token)
    assert 0 < right < len(asked)
    assert (accuracy.correct, accuracy.count) == (right, len(asked))


def test_the_two_ways_to_compare_differ(model):
    asked = questions(200)
    assert answer_accuracy(model, asked) != answer_accuracy(model, asked, per_token=True)


def test_chance_counts_choices_that_are_the_same(model):
    label, other = np.array([5, EOS]), np.array([6, EOS])
    prompt = np.array([7])
    asked = [
        Question(prompt, label, (label, other, label)),
        Question(prompt, label, (label, other)),
        Question(prompt, label, (other, other, other, label)),
        Question(prompt, label, ()),
    ]
    assert answer_accuracy(model, asked).chance == pytest.approx((2 / 3 + 1 / 2 + 1 / 4) / 4)


def test_without_choices_the_answer_is_what_decoding_gives(model):
    """Labels made by decoding are right, and wrong once any of their tokens is another."""
    rng, asked, right = np.random.default_rng(3), [], 0
    while len(asked) < 30:
        prompt = tokens(rng, 20)
        generated = generate(model, torch.from_numpy(prompt.astype(np.int64))[None], 8)[0]
        label = generated[len(prompt) :].numpy()
        is_changed = len(asked) % 3 == 0
        if is_changed:
            place = rng.integers(len(label))
            label[place] = (label[place] + 1) % VOCAB
        right += not is_changed
        asked.append(Question(prompt, label, ()))
    accuracy = answer_accuracy(model, asked)
    assert (accuracy.correct, accuracy.chance) == (right, 0)


def test_the_model_and_the_random_state_are_left_as_they_were(model):
    model.train()
    before = torch.get_rng_state()
    first, second = (answer_accuracy(model, questions()) for _ in range(2))
    assert first == second
    assert model.training
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("correct", "count"), [(0, 7), (7, 7), (3, 7), (1, 1), (200, 1221), (999, 1000)]
)
def test_the_interval_is_wilsons(correct, count):
    expected = binomtest(correct, count).proportion_ci(method="wilson")
    assert wilson_interval(correct, count) == pytest.approx((expected.low, expected.high))
    accuracy = Accuracy(correct, count, 0.5)
    low, high = accuracy.interval
    assert low - 1e-12 <= accuracy.share <= high + 1e-12


def test_no_questions_are_refused(model):
    with pytest.raises(ValueError, match="accuracy needs at least 1 question"):
        answer_accuracy(model, [])
