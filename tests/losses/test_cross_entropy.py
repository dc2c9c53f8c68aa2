"""Chunked cross entropy against F.cross_entropy on all logits."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mobilellm.losses.cross_entropy import chunked_cross_entropy, token_losses
from mobilellm.models import MobileLLM, ModelConfig

IGNORED = -100


def make_case(tokens=23, hidden=8, vocab=31, masked=True, seed=0):
    torch.manual_seed(seed)
    states = torch.randn(tokens, hidden, requires_grad=True)
    labels = torch.randint(0, vocab, (tokens,))
    if masked:
        labels[::3] = IGNORED
    return states, nn.Parameter(torch.randn(vocab, hidden)), labels


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation made."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        made = output if isinstance(output, (tuple, list)) else (output,)
        sizes = [t.numel() for t in made if isinstance(t, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return output


@pytest.mark.parametrize("chunk", [1, 7, 22, 23, 1000, None])
@pytest.mark.parametrize("masked", [True, False])
def test_value_and_gradients(chunk, masked):
    states, weight, labels = make_case(masked=masked)
    expected = F.cross_entropy(states @ weight.T, labels, reduction="sum")
    gradients = torch.autograd.grad(expected / 7, [states, weight])
    loss = chunked_cross_entropy(states, lambda h: h @ weight.T, labels, chunk_tokens=chunk)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    (loss / 7).backward()
    torch.testing.assert_close(states.grad, gradients[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weight.grad, gradients[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("chunk", [5, None])
def test_a_whole_model_gets_the_gradients_of_the_plain_loss(tied, chunk):
    config = ModelConfig(
        vocab_size=31, hidden_size=16, intermediate_size=24, num_blocks=2,
        num_attention_heads=4, tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(1)
    model = MobileLLM(config)
    ids = torch.randint(0, 31, (2, 9))
    labels = ids.roll(-1, 1)
    labels[0, :4] = IGNORED
    plain = F.cross_entropy(model(ids).logits.flatten(0, 1), labels.flatten(), reduction="sum")
    expected = torch.autograd.grad(plain, list(model.parameters()))
    hidden = model(ids, logits=False).hidden
    loss = chunked_cross_entropy(hidden, model.unembed, labels, chunk_tokens=chunk)
    loss.backward()
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-5)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


def test_a_head_of_several_factors():
    states, _, labels = make_case()
    left = nn.Parameter(torch.randn(8, 3))
    right = nn.Linear(3, 31)
    expected = F.cross_entropy(right(states @ left), labels, reduction="sum")
    gradients = torch.autograd.grad(expected, [states, left, right.weight, right.bias])
    chunked_cross_entropy(states, lambda h: right(h @ left), labels, chunk_tokens=4).backward()
    for tensor, gradient in zip((states, left, right.weight, right.bias), gradients, strict=True):
        torch.testing.assert_close(tensor.grad, gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("frozen", ["head", "states", "both"])
def test_what_is_frozen_gets_no_gradient(frozen):
    states, weight, labels = make_case()
    states.requires_grad_(frozen == "head")
    weight.requires_grad_(frozen == "states")
    expected = F.cross_entropy(states @ weight.T, labels, reduction="sum")
    loss = chunked_cross_entropy(states, lambda h: h @ weight.T, labels, chunk_tokens=4)
    torch.testing.assert_close(loss, expected)
    assert loss.requires_grad == (frozen != "both")
    if loss.requires_grad:
        loss.backward()
    assert (states.grad is None) == (frozen != "head")
    assert (weight.grad is None) == (frozen != "states")


def test_all_labels_masked():
    states, weight, labels = make_case()
    loss = chunked_cross_entropy(states, lambda h: h @ weight.T, torch.full_like(labels, IGNORED))
    loss.backward()
    assert loss == 0
    assert states.grad.abs().max() == 0
    assert weight.grad.abs().max() == 0


def test_the_sum_is_float32_under_bf16_autocast():
    states, weight, labels = make_case(tokens=64, vocab=97)
    exact = F.cross_entropy(states @ weight.T, labels, reduction="sum")
    expected = torch.autograd.grad(exact, [weight])[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = chunked_cross_entropy(states, lambda h: F.linear(h, weight), labels, chunk_tokens=9)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=1e-2, atol=1e-2)
    loss.backward()
    assert weight.grad.dtype == torch.float32
    assert F.cosine_similarity(weight.grad.flatten(), expected.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("grad", [True, False])
def test_the_logits_are_never_held_at_once(grad):
    states, weight, labels = make_case(tokens=512, vocab=101)
    with torch.set_grad_enabled(grad), LargestTensor() as largest:
        loss = chunked_cross_entropy(states, lambda h: h @ weight.T, labels, chunk_tokens=16)
        if grad:
            loss.backward()
    assert largest.elements <= max(16 * 101, states.numel())


def test_no_gradient_is_made_where_none_is_wanted():
    states, weight, labels = make_case()
    with torch.no_grad():
        loss = chunked_cross_entropy(states, lambda h: h @ weight.T, labels)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, F.cross_entropy(states @ weight.T, labels, reduction="sum"))


def test_token_losses():
    states, weight, labels = make_case(tokens=24)
    expected = F.cross_entropy(states @ weight.T, labels, reduction="none")
    losses = token_losses(states.view(4, 6, 8), lambda h: h @ weight.T, labels.view(4, 6))
    assert losses.shape == (4, 6)
    torch.testing.assert_close(losses.flatten(), expected.detach())
    assert not losses.requires_grad


def test_a_second_backward_is_refused():
    states, weight, labels = make_case()
    loss = chunked_cross_entropy(states, lambda h: h @ weight.T, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backpropagated only once"):
        loss.backward()


def test_bad_arguments_are_refused():
    states, weight, labels = make_case()
    with pytest.raises(ValueError, match=r"labels have shape \(22,\) and hidden \(23, 8\); give"):
        chunked_cross_entropy(states, lambda h: h @ weight.T, labels[1:])
    with pytest.raises(ValueError, match="chunk_tokens=0 must be at least 1"):
        chunked_cross_entropy(states, lambda h: h @ weight.T, labels, chunk_tokens=0)
