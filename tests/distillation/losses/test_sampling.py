"""Sampled tokens stand for the whole distribution; the most likely ones do not."""

import pytest
import torch
from torch.testing import assert_close

from mobilellm.distillation.losses.forward_kl import ForwardKL
from mobilellm.distillation.losses.sampling import sample_of
from mobilellm.distillation.losses.targets import top_k_of
from mobilellm.distillation.losses.teacher_cross_entropy import TeacherCrossEntropy

K, VOCAB, DRAWS = 5, 40, 4000


def draw_logits(seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(VOCAB, generator=generator, dtype=torch.float64)


def even_offsets():
    """All offsets alike: a mean over them is an expectation, up to 1 / `DRAWS`."""
    return (torch.arange(DRAWS) + 0.5) / DRAWS


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0, 8.0])
def test_the_expected_weights_are_the_distribution(spread):
    logits = draw_logits(spread=spread).expand(DRAWS, -1)
    sample = sample_of(logits, K, even_offsets())
    weights = sample.log_probabilities.exp()
    assert_close(weights.sum(-1), torch.ones(DRAWS, dtype=torch.float64))
    mean = torch.zeros(VOCAB, dtype=torch.float64)
    mean.scatter_add_(0, sample.indices.flatten(), weights.flatten()).div_(DRAWS)
    assert_close(mean, logits[0].softmax(-1), rtol=0, atol=2 / DRAWS)
    ordered = sample.indices.sort(-1).values
    assert (ordered.diff(dim=-1) > 0).all(), "a token was drawn twice"


def gradient(loss, student, teacher):
    student = student.clone().requires_grad_()
    loss(student, teacher, torch.ones(len(student), dtype=torch.bool)).backward()
    return student.grad.sum(0)


@pytest.mark.parametrize("loss", [ForwardKL(temperature=2.0), TeacherCrossEntropy(temperature=2.0)])
def test_the_gradient_is_unbiased_and_that_of_the_most_likely_tokens_is_not(loss):
    student = draw_logits(1).expand(DRAWS, -1)
    teacher = draw_logits().expand(DRAWS, -1)
    exact = gradient(loss, student, teacher)
    sampled = sample_of(teacher, K, even_offsets(), temperature=2.0)
    assert_close(gradient(loss, student, sampled), exact, rtol=0, atol=4 / DRAWS)
    biased = gradient(loss, student, top_k_of(teacher, K, temperature=2.0))
    assert (biased - exact).abs().max() > 40 / DRAWS


def test_a_certain_teacher_and_a_whole_vocabulary():
    certain = torch.full((3, VOCAB), -1000.0)
    certain[:, 7] = 0.0
    sample = sample_of(certain, K, torch.tensor([0.0, 0.5, 0.999]))
    assert (sample.indices[:, 0] == 7).all()
    assert_close(sample.log_probabilities.exp()[:, 0], torch.ones(3))
    whole = sample_of(draw_logits()[None], VOCAB, torch.tensor([0.3]))
    expected = draw_logits().log_softmax(-1)[whole.indices[0]]
    assert_close(whole.log_probabilities[0], expected)


def test_what_samples_cannot_do_is_refused():
    teacher = sample_of(draw_logits()[None], K, torch.tensor([0.5]))
    student, mask = draw_logits(1)[None], torch.tensor([True])
    with pytest.raises(ValueError, match="rest=renormalize has no meaning for sampled tokens"):
        ForwardKL(rest="renormalize")(student, teacher, mask)
    with pytest.raises(ValueError, match=r"use temperature=1$"):
        ForwardKL(temperature=2.0)(student, teacher, mask)
    with pytest.raises(ValueError, match="k=41 must be between 1 and vocab_size=40"):
        sample_of(draw_logits()[None], VOCAB + 1, torch.tensor([0.5]))
