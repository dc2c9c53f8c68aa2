"""A merged adapter goes out in every format, and comes back with the adapted model's logits."""

import pytest
import torch

from mobilellm.adapters import Adapter, merge_adapters
from mobilellm.checkpoint import load_model, save_model
from mobilellm.formats.gguf import export_gguf, import_gguf
from mobilellm.formats.huggingface import export_huggingface, import_huggingface
from mobilellm.models import MobileLLM, ModelConfig

IDS = torch.arange(40).reshape(2, 20)
TARGETS = {
    "tied": ["blocks.*", "embedding"],
    "untied": ["blocks.*", "embedding", "head"],
    "shared": ["blocks.*"],
    "rounded": ["blocks.*"],
}


def adapted(kind):
    """A model with an adapter whose parts are not zero."""
    torch.manual_seed(4)
    model = MobileLLM(
        ModelConfig(vocab_size=50, hidden_size=16, intermediate_size=24, num_blocks=2,
                    num_attention_heads=4, num_key_value_heads=2,
                    tie_word_embeddings=kind == "tied", block_repeats=2 if kind == "shared" else 1)
    )  # fmt: skip
    quantized = {"bits": 4, "group": 8, "levels": "normal"} if kind == "rounded" else None
    adapter = Adapter(rank=3, alpha=6, targets=TARGETS[kind], quantized=quantized)
    model = adapter.adapt(model, seed=0)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def saved(model, folder):
    save_model(model, folder)
    return load_model(folder)


def as_huggingface(model, folder):
    export_huggingface(model, folder)
    return import_huggingface(folder)


def as_gguf(model, folder):
    pytest.importorskip("gguf")
    export_gguf(model, folder.with_suffix(".gguf"), kind="f32")
    return import_gguf(folder.with_suffix(".gguf"))[0]


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("form", [saved, as_huggingface, as_gguf])
@torch.no_grad()
def test_the_merged_model_has_the_logits_of_the_adapter(kind, form, tmp_path):
    model = adapted(kind)
    expected = model(IDS).logits
    again = form(merge_adapters(model), tmp_path / "out").eval()
    torch.testing.assert_close(again(IDS).logits, expected, rtol=1e-5, atol=1e-5)
    if form is not saved:
        assert not any(shape.trains_alone for shape in again.config.layer_shapes.values())
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b"):
            parameter.zero_()
    assert not torch.allclose(model(IDS).logits, expected, atol=1e-2), "the adapter has an effect"
