"""FlexAttention for documents, and which kernels the other forms of attention are left to."""

import pytest
import torch
from host_waits import META, watched
from torch.nn.attention import flex_attention as flex
from torch.overrides import TorchFunctionMode

from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.attention_mask import (
    dense_mask,
    document_attention_mask,
    document_block_mask,
)

DOCUMENTS = torch.tensor([[0] * 20 + [1] * 30 + [2] * 14, [0] * 64])
FLASH = 1  # torch.nn.attention.SDPBackend.FLASH_ATTENTION


def make_model(**changes):
    torch.manual_seed(0)
    config = {
        "vocab_size": 41, "hidden_size": 64, "intermediate_size": 48, "num_blocks": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    } | changes  # fmt: skip
    return MobileLLM(ModelConfig(**config))


def outputs(model, mask, **options):
    ids = torch.arange(128).view(2, 64) % 41
    model.zero_grad()
    output = model(ids, attention_mask=mask, **options)
    output.logits.square().mean().backward()
    return output, {name: weight.grad for name, weight in model.named_parameters()}


@pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile.*")
def test_it_equals_attention_with_a_mask(monkeypatch):
    """Forward and backward, with grouped heads: computed on a CPU by torch's own naive form."""
    # Torch refuses gradients on CPUs, for which it has no compiled kernel.
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)
    model = make_model(qk_norm="rms", attention_multiplier=0.5)
    (dense, expected), (blocks, found) = (
        outputs(model, make(DOCUMENTS)) for make in (document_attention_mask, document_block_mask)
    )
    torch.testing.assert_close(blocks.logits, dense.logits, atol=1e-5, rtol=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-5)


def test_where_it_does_not_fit_the_mask_is_a_tensor():
    """Narrow heads, and whoever needs the weights of attention."""
    for model, capture in (
        (make_model(head_dim=8), ()),
        (make_model(), ("attention", "hidden_states")),
    ):
        dense, blocks = (
            outputs(model, make(DOCUMENTS), capture=capture)[0]
            for make in (document_attention_mask, document_block_mask)
        )
        torch.testing.assert_close(blocks.logits, dense.logits, atol=1e-6, rtol=0)
        for name in capture:
            torch.testing.assert_close(blocks.captured[name], dense.captured[name])


def test_the_mask_is_made_without_waiting_for_the_device():
    found = []
    with watched(found):
        mask = document_block_mask(DOCUMENTS.to(META, non_blocking=True))
    assert found == []
    assert mask.shape == (2, 1, 64, 64)
    causal = torch.ones(64, 64, dtype=torch.bool).tril()
    expected = document_attention_mask(DOCUMENTS) & causal
    assert torch.equal(dense_mask(document_block_mask(DOCUMENTS))[:, 0], expected)


def test_a_block_mask_of_other_sizes_is_refused():
    with pytest.raises(ValueError, match=r"BlockMask of shape \(2, 1, 64, 64\); give one of 32 qu"):
        make_model()(
            torch.zeros(2, 32, dtype=torch.long), attention_mask=document_block_mask(DOCUMENTS)
        )


class Kernels(TorchFunctionMode):
    """Records the arguments of torch's attention, and its choice of a kernel on this device."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            query, key, _, mask = (*args, None)[:4]
            choice = torch._fused_sdp_choice(*args[:3], mask, **kwargs)
            self.calls.append((choice, key.shape[1] < query.shape[1], mask, kwargs))
        return func(*args, **kwargs)


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"num_key_value_heads": 4},
        {"block_repeats": 2, "share_kv": "first"},
        {"qk_norm": "l2", "attention_multiplier": 2.0},
        {"num_attention_heads": [4, 2], "num_key_value_heads": [2, 1], "head_dim": 16},
    ],
)
def test_causal_attention_is_left_to_a_flash_kernel(variant):
    """No mask, the flag for causality and grouped heads as they are: what CUDA's kernel needs too.

    Torch tells its choice for tensors on this device only; no GPU was asked.
    """
    model = make_model(**variant)
    with Kernels() as kernels:
        model(torch.zeros(2, 64, dtype=torch.long))
    assert len(kernels.calls) == model.config.num_layers
    for choice, is_grouped, mask, kwargs in kernels.calls:
        assert choice == FLASH
        assert mask is None
        assert kwargs["is_causal"]
        assert kwargs["enable_gqa"] == is_grouped
