"""Losses in chunks: what each token weighs, and further losses beside the cross entropy."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from mobilellm.distillation import forward_kl
from mobilellm.losses.chunked import ChunkTerm, chunked_losses
from mobilellm.losses.label_losses import SoftLabels

TOKENS, WIDTH, VOCAB = 23, 8, 31


def make_inputs(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator).to(dtype).requires_grad_()
    weight = torch.nn.Parameter(torch.randn(VOCAB, WIDTH, generator=generator).to(dtype))
    labels = torch.randint(VOCAB, (TOKENS,), generator=generator)
    labels[torch.rand(TOKENS, generator=generator) < 0.3] = -100
    teacher = torch.randn(TOKENS, VOCAB, generator=generator)
    return hidden, weight, labels, teacher


def naive(hidden, weight, labels, teacher, *, label_weights, hard, soft):
    """Everything at once in float64, by autograd."""
    hidden, weight = (x.detach().double().requires_grad_() for x in (hidden, weight))
    logits, has_label = hidden @ weight.T, labels != -100
    nats = F.cross_entropy(logits, labels, reduction="none") * label_weights.double()
    theirs = teacher.double().log_softmax(-1)
    divergence = (theirs.exp() * (theirs - logits.log_softmax(-1))).sum(-1)[has_label].sum()
    total = hard * nats.sum() + soft * divergence
    return total, divergence, torch.autograd.grad(total, (hidden, weight))


@pytest.mark.parametrize("chunk", [1, 5, 64])
@pytest.mark.parametrize(("hard", "soft"), [(1.0, 0.0), (0.5, 0.5), (0.0, 2.0)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_soft_labels_beside_hard_ones(chunk, hard, soft, weighted, shared):
    hidden, weight, labels, teacher = make_inputs()
    mask = labels != -100
    label_weights = torch.rand(TOKENS) if weighted else torch.ones(TOKENS)
    if shared:
        term = SoftLabels(lambda place: teacher[place], soft)
    else:
        term = ChunkTerm(
            lambda logits, place: (
                forward_kl(logits, teacher[place], mask[place]) * mask[place].sum()
            ),
            soft,
        )
    sums = chunked_losses(
        hidden, lambda h: h @ weight.T, labels, cross_entropy_weight=hard, terms=[term],
        label_weights=label_weights if weighted else None, chunk_tokens=chunk,
    )  # fmt: skip
    total, divergence, gradients = naive(
        hidden, weight, labels, teacher, label_weights=label_weights, hard=hard, soft=soft
    )
    assert_close(sums.total.double(), total, rtol=1e-5, atol=1e-5)
    assert_close(sums.terms[0].double(), divergence, rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(sums.total, (hidden, weight))
    for mine, theirs in zip(found, gradients, strict=True):
        assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        again = chunked_losses(
            hidden, lambda h: h @ weight.T, labels, cross_entropy_weight=hard, terms=[term],
            label_weights=label_weights if weighted else None, chunk_tokens=chunk,
        )  # fmt: skip
    assert_close(again.total, sums.total)
    assert_close(again.terms, sums.terms)


def test_soft_labels_of_an_equal_teacher_cost_nothing():
    hidden, weight, labels, _ = make_inputs()
    teacher = (hidden @ weight.T).detach()
    term = SoftLabels(lambda place: teacher[place])
    sums = chunked_losses(
        hidden, lambda h: h @ weight.T, labels, cross_entropy_weight=0.0, terms=[term],
        chunk_tokens=7,
    )  # fmt: skip
    assert_close(sums.total, torch.tensor(0.0), atol=1e-6, rtol=0)
    for gradient in torch.autograd.grad(sums.total, (hidden, weight)):
        assert gradient.abs().max() < 1e-5


def test_what_a_teacher_says_where_no_label_is_does_not_matter():
    hidden, weight, labels, teacher = make_inputs()
    found = []
    for value in (0.0, float("nan"), float("inf")):
        spoilt = torch.where((labels == -100).unsqueeze(1), value, teacher)
        term = SoftLabels(lambda place, spoilt=spoilt: spoilt[place])
        sums = chunked_losses(hidden, lambda h: h @ weight.T, labels, terms=[term])
        found.append([sums.total.detach(), *torch.autograd.grad(sums.total, (hidden, weight))])
    for one in found[1:]:
        for mine, expected in zip(one, found[0], strict=True):
            assert torch.equal(mine, expected)


def test_soft_labels_in_bfloat16_compute_in_float32():
    hidden, weight, labels, teacher = make_inputs(dtype=torch.bfloat16)
    term = SoftLabels(lambda place: teacher[place].bfloat16())
    sums = chunked_losses(hidden, lambda h: h @ weight.T, labels, terms=[term])
    logits = (hidden @ weight.T).detach()
    expected = forward_kl(logits, teacher.bfloat16(), labels != -100) * (labels != -100).sum()
    assert sums.terms.dtype == torch.float32
    assert_close(sums.terms[0], expected, rtol=1e-5, atol=1e-5)
