"""Packed top-k probabilities: nothing but rounding is lost, and that is bounded."""

import math

import numpy as np
import pytest
import torch

from mobilellm.distillation.logit_store.packing import PACKINGS, PRECISIONS, Packing
from mobilellm.distillation.losses.targets import TopK, log_probability_pair, top_k_of

# Half a step of the square root, and the largest -log p.
LEVELS = {"fixed16": (65535, 32.0), "fixed8": (255, 16.0)}
VOCABULARIES = (1, 2, 3, 255, 256, 257, 32_000, 65_535, 65_536, 65_537, 128_256, 1_000_000)


def _top(vocab_size: int, k: int, seed: int, scale: float = 4.0) -> TopK:
    """Distributions over k random tokens, extreme ids among them, and a rest; two by three."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, k + 1, generator=generator) * scale
    indices = torch.stack([
        torch.from_numpy(np.random.default_rng(seed + row).choice(vocab_size, k, replace=False))
        for row in range(6)
    ]).view(2, 3, k)  # fmt: skip
    indices[0, 0, 0] = vocab_size - 1
    return TopK(indices, logits.log_softmax(-1)[..., :k])


def _largest_error(precision: str, log_probabilities: torch.Tensor) -> torch.Tensor:
    levels, largest = LEVELS[precision]
    half = math.sqrt(largest) / levels / 2
    root = (-log_probabilities.double()).clamp(max=largest).sqrt()
    beyond = (-log_probabilities.double() - largest).clamp(min=0)
    return 2 * root * half + half**2 + beyond + 1e-5


def _combinations():
    """Each vocabulary in each packing, in bits with many tokens too; other choices by pairs."""
    choices = [(1, 1.0), (2, 0.0), (7, 3.0), (33, 10.0)]
    for row, vocab_size in enumerate(VOCABULARIES):
        for column, packing in enumerate((*PACKINGS, "bits")):
            k, scale = (33, 5.0) if column == 2 else choices[(row // 2 + column) % 4]
            precision = PRECISIONS[(row + column) % 2]
            yield vocab_size, min(k, vocab_size), precision, packing, scale


@pytest.mark.parametrize(("vocab_size", "k", "precision", "packing", "scale"), _combinations())
def test_what_comes_back(vocab_size, k, precision, packing, scale):
    codec = Packing(vocab_size=vocab_size, k=k, precision=precision, packing=packing)
    top = _top(vocab_size, k, seed=k, scale=scale)
    packed = codec.encode(top)
    assert packed.dtype == torch.uint8
    assert packed.shape == (2, 3, codec.bytes_per_token)
    back = codec.decode(packed, temperature=2.0)
    assert back.temperature == 2.0
    assert torch.equal(back.indices, top.indices)
    assert back.indices.dtype == torch.int64
    error = (back.log_probabilities.double() - top.log_probabilities).abs()
    bound = _largest_error(precision, top.log_probabilities)
    # Where rounding up leaves a sum above 1, all are lowered, by the largest error at most.
    assert (error <= bound + bound.amax(-1, keepdim=True)).all()
    rounded = codec.rounded(top)
    assert torch.equal(rounded.log_probabilities, back.log_probabilities)
    assert torch.equal(rounded.indices, back.indices)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_errors_are_those_of_the_documentation(precision):
    """Against a float64 version written by NumPy."""
    levels, largest = LEVELS[precision]
    values = np.linspace(1e-6, largest, 50_001)
    # A sum far below 1: a single token is never lowered.
    codec = Packing(vocab_size=10, k=1, precision=precision)
    top = TopK(torch.zeros(len(values), 1, dtype=torch.int64), torch.from_numpy(-values)[:, None])
    found = -codec.rounded(top).log_probabilities[:, 0].double().numpy()
    naive = (np.round(np.sqrt(values / largest) * levels) / levels) ** 2 * largest
    # float32 may round a value that lies between two levels to either.
    step = 2 * np.sqrt(values * largest) / levels + largest / levels**2
    assert np.mean(np.abs(found - naive) < 1e-5) > 0.99
    assert (np.abs(found - naive) < 1.01 * step + 1e-5).all()
    documented = {"fixed16": (8.7e-5, 2.8e-5, 4.9e-4), "fixed8": (0.016, 0.0052, 0.063)}[precision]
    error = np.abs(found - values)
    assert (error <= documented[0] * np.sqrt(values) + largest / levels**2 / 4 + 4e-6).all()
    assert error[values <= -math.log(0.9)].max() <= documented[1] + 1e-5
    assert error.max() == pytest.approx(documented[2], rel=0.05)


@pytest.mark.parametrize("vocab_size", [v for v in VOCABULARIES if v >= 64])
@pytest.mark.parametrize("k", [1, 7, 32, 64])
def test_bytes_per_token(vocab_size, k):
    sizes = {
        (precision, packing): Packing(
            vocab_size=vocab_size, k=k, precision=precision, packing=packing
        ).bytes_per_token
        for precision in PRECISIONS
        for packing in PACKINGS
    }
    assert sizes["fixed16", "plain"] == (4 if vocab_size <= 65_536 else 6) * k
    assert sizes["fixed8", "plain"] == sizes["fixed16", "plain"] - k
    bits = math.ceil(math.log2(vocab_size))
    assert sizes["fixed16", "bits"] == math.ceil(k * bits / 8) + 2 * k
    assert sizes["fixed8", "bits"] == math.ceil(k * bits / 8) + k


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("scale", [0.0, 0.1, 3.0, 30.0])
def test_the_classes_sum_to_one(precision, scale):
    """All words are kept, so that rounding up must not leave a sum above 1."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(500, 50, generator=generator) * scale
    codec = Packing(vocab_size=50, k=50, precision=precision)
    stored = codec.decode(codec.encode(top_k_of(logits, 50)))
    _, teacher = log_probability_pair(logits, stored)
    assert teacher.shape == (500, 51)
    assert torch.allclose(teacher.double().exp().sum(-1), torch.ones(500).double(), atol=1e-6)
    assert (stored.log_probabilities.double().exp().sum(-1) <= 1 + 1e-6).all()


def test_a_sure_teacher_keeps_its_rest():
    sure = TopK(torch.zeros(1, 1, dtype=torch.int64), torch.tensor([[math.log1p(-1e-4)]]))
    rest = 1 - Packing(vocab_size=9, k=1).rounded(sure).log_probabilities.double().exp()
    assert rest.item() == pytest.approx(1e-4, rel=0.02)


def test_words_without_probability_are_stored_as_the_smallest():
    top = TopK(torch.tensor([[4, 2]]), torch.tensor([[0.0, -math.inf]]))
    for precision, (_, largest) in LEVELS.items():
        back = Packing(vocab_size=5, k=2, precision=precision).rounded(top).log_probabilities
        assert back[0].tolist() == pytest.approx([0, -largest], abs=1e-5)


def test_bits_are_packed_tight():
    """Lowest bit first, by arithmetic on one long number."""
    codec = Packing(vocab_size=1000, k=5, packing="bits", precision="fixed8")
    indices = [999, 0, 512, 3, 700]
    packed = codec.encode(TopK(torch.tensor([indices]), torch.zeros(1, 5)))[0, :7]
    assert int.from_bytes(bytes(packed.tolist()), "little") == sum(
        index << (10 * place) for place, index in enumerate(indices)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 11}, "k=11 must be at most vocab_size=10; lower k"),
        ({"k": 0}, "k=0 must be a whole number of at least 1"),
        ({"k": True}, "k=True must be a whole number"),
        ({"precision": "fixed4"}, "precision='fixed4' is not known; use one of fixed16, fixed8"),
        ({"packing": "tight"}, "packing='tight' is not known; use one of plain, bits"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        Packing(**{"vocab_size": 10, "k": 4, **options})


def test_another_k_is_refused():
    with pytest.raises(ValueError, match="top has 3 tokens, but k=4"):
        Packing(vocab_size=10, k=4).encode(_top(10, 3, 0))
