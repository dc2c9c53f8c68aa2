"""The classes on which student and teacher are compared, and what the student's side costs."""

import math
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from mobilellm.distillation import (
    forward_kl,
    jensen_shannon,
    reverse_kl,
    teacher_cross_entropy,
)
from mobilellm.distillation.losses.targets import RESTS, TopK, log_probability_pair, top_k_of

DIVERGENCES = [forward_kl, reverse_kl, jensen_shannon, teacher_cross_entropy]
VOCAB = 9
SEEDS = range(5)
ALL = torch.ones(4, 3, dtype=torch.bool)


def logits_of(seed, *, dtype=torch.float64, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(4, 3, VOCAB, generator=generator, dtype=torch.float64) for _ in range(2)]
    return [(scale * one).to(dtype) for one in made]


def brute_force(logits, indices, temperature, rest):
    """Each class's probability, one by one."""
    powers = torch.exp(logits / temperature)
    classes = torch.empty(*indices.shape[:-1], indices.shape[-1] + 1, dtype=logits.dtype)
    for place in ((i, j) for i in range(4) for j in range(3)):
        known = indices[place].tolist()
        total = sum(powers[place][word] for word in range(VOCAB))
        for number, word in enumerate(known):
            classes[place][number] = powers[place][word] / total
        others = [powers[place][word] / total for word in range(VOCAB) if word not in known]
        classes[place][-1] = sum(others)
    if rest == "bucket":
        return classes
    return classes[..., :-1] / classes[..., :-1].sum(-1, keepdim=True)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("k", [1, 3, VOCAB - 1])
def test_classes_against_brute_force(k, rest, temperature):
    for seed in SEEDS:
        student, teacher = logits_of(seed)
        top = top_k_of(teacher, k, temperature=temperature)
        found = log_probability_pair(student, top, temperature=temperature, rest=rest)
        for one, logits in zip(found, (student, teacher), strict=True):
            assert_close(one.exp(), brute_force(logits, top.indices, temperature, rest))


def test_renormalized_at_another_temperature():
    for seed in SEEDS:
        student, teacher = logits_of(seed)
        top = top_k_of(teacher, 4, temperature=0.7)
        found = log_probability_pair(student, top, temperature=2.0, rest="renormalize")
        for one, logits in zip(found, (student, teacher), strict=True):
            assert_close(one.exp(), brute_force(logits, top.indices, 2.0, "renormalize"))


@pytest.mark.parametrize("loss", DIVERGENCES)
@pytest.mark.parametrize("rest", RESTS)
def test_all_words_are_the_full_distribution(loss, rest):
    for seed in SEEDS:
        student, teacher = logits_of(seed)
        found = loss(student, top_k_of(teacher, VOCAB), ALL, rest=rest)
        # The class of no words keeps a least probability on both sides.
        assert_close(found, loss(student, teacher, ALL), rtol=0, atol=3e-8)


@pytest.mark.parametrize("loss", [forward_kl, reverse_kl, jensen_shannon])
def test_fewer_classes_never_tell_models_further_apart(loss):
    # The data processing inequality, for classes merged into one.
    for seed in SEEDS:
        student, teacher = logits_of(seed)
        values = [loss(student, top_k_of(teacher, k), ALL) for k in range(1, VOCAB)]
        values.append(loss(student, teacher, ALL))
        assert all(a <= b + 1e-9 for a, b in pairwise(values))


def test_top_k_of():
    _, teacher = logits_of(0)
    top = top_k_of(teacher, 3, temperature=2.0)
    probabilities = torch.exp(teacher / 2) / torch.exp(teacher / 2).sum(-1, keepdim=True)
    expected = probabilities.sort(-1, descending=True)
    assert torch.equal(top.indices, expected.indices[..., :3])
    assert_close(top.log_probabilities.exp(), expected.values[..., :3])
    flat = TopK(top.indices.flatten(0, 1), top.log_probabilities.flatten(0, 1), 2.0)
    part = flat.rows(slice(2, 5))
    assert torch.equal(part.indices, flat.indices[2:5])
    assert torch.equal(part.log_probabilities, flat.log_probabilities[2:5])
    assert part.temperature == 2.0


@pytest.mark.parametrize("loss", DIVERGENCES)
@pytest.mark.parametrize("rest", RESTS)
def test_a_sure_teacher_and_a_sure_student_stay_finite(loss, rest):
    for dtype in (torch.float32, torch.float64):
        sure = torch.zeros(4, 3, VOCAB, dtype=dtype)
        sure[..., 0] = 80.0
        other = sure.flip(-1).requires_grad_()
        for teacher in (top_k_of(sure, 2), sure):
            value = loss(other, teacher, ALL, rest=rest)
            (slope,) = torch.autograd.grad(value, other)
            assert value.isfinite() and slope.isfinite().all()
            assert loss(sure, teacher, ALL, rest=rest).abs() < 1e-6 or loss is teacher_cross_entropy


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_students_gradient_is_that_of_plain_operations(rest, temperature):
    for seed in SEEDS:
        student, teacher = logits_of(seed)
        top = top_k_of(teacher, 3, temperature=temperature)
        plain, leaf = (student.clone().requires_grad_() for _ in range(2))
        p = (plain / temperature).softmax(-1)
        chosen = p.gather(-1, top.indices)
        if rest == "bucket":
            q = torch.cat([chosen, 1 - chosen.sum(-1, keepdim=True)], -1)
        else:
            q = chosen / chosen.sum(-1, keepdim=True)
        goal = brute_force(teacher, top.indices, temperature, rest)
        ((goal * (goal.log() - q.log())).sum(-1).mean() * temperature**2).backward()
        forward_kl(leaf, top, ALL, temperature=temperature, rest=rest).backward()
        assert_close(leaf.grad, plain.grad)


class Kept:
    """Bytes that autograd keeps for the backward pass, beside the logits that are there anyway."""

    def __init__(self, logits):
        self.storages = {}
        self.known = logits.untyped_storage().data_ptr()

    def __enter__(self):
        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() != self.known:
                self.storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        self.hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)

    @property
    def bytes(self):
        return sum(self.storages.values())


@pytest.mark.parametrize("loss", DIVERGENCES)
@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_top_k_keeps_nothing_of_the_vocabularys_size(loss, rest, dtype):
    tokens, vocab, k = 8, 5000, 4
    student = torch.randn(tokens, vocab, dtype=dtype).requires_grad_()
    top = top_k_of(torch.randn(tokens, vocab), k)
    mask = torch.arange(tokens) > 1
    with Kept(student) as kept:
        value = loss(student, top, mask, rest=rest)
    assert 0 < kept.bytes < 100 * tokens * (k + 1)
    value.backward()
    assert (student.grad[:2] == 0).all()
    assert student.grad[2:].abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rest": "drop"}, "rest='drop' is not known; use one of bucket, renormalize"),
        (
            {"temperature": 2.0},
            r"known at temperature 1, .* at temperature 2 is not; use temperature=1",
        ),
        ({"mask": ALL[:1]}, r"mask has shape \(1, 3\); the tokens have \(4, 3\)"),
    ],
)
def test_what_is_refused(options, message):
    student, teacher = logits_of(0)
    with pytest.raises(ValueError, match=message):
        log_probability_pair(student, top_k_of(teacher, 3), **options)


def test_shapes_that_do_not_fit():
    student, teacher = logits_of(0)
    with pytest.raises(ValueError, match=r"top k have shape \(2, 3, 3\), the student's logits \(4"):
        log_probability_pair(student, top_k_of(teacher[:2], 3))
    with pytest.raises(ValueError, match=r"shape \(4, 3, 8\), the student's \(4, 3, 9\)"):
        log_probability_pair(student, teacher[..., 1:])
    for k in (0, VOCAB + 1):
        with pytest.raises(ValueError, match=f"k={k} must be between 1 and vocab_size=9"):
            top_k_of(teacher, k)


def test_a_class_without_mass_weighs_nothing():
    student, teacher = logits_of(0)
    teacher[..., 0] = 200.0
    found = forward_kl(student, top_k_of(teacher, 1), ALL)
    assert_close(found, -student.log_softmax(-1)[..., 0].mean(), rtol=1e-6, atol=0)
    assert math.isfinite(found)
