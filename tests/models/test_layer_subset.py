"""A model of selected layers computes what those layers of the whole model compute."""

import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.layer_subset import layer_subset, subset_config


def make_model(**changes):
    torch.manual_seed(0)
    settings = {
        "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_blocks": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    return MobileLLM(ModelConfig(**settings | changes)).eval()


IDS = torch.arange(20).view(2, 10)


def test_all_layers_of_a_shared_model_give_the_model_without_sharing():
    model = make_model(block_repeats=2, layer_sharing="reverse")
    subset = layer_subset(model, range(6))
    assert subset.config.num_blocks == subset.config.num_layers == 6
    assert_close(subset(IDS).logits, model(IDS).logits)


def test_chosen_layers_keep_their_weights():
    model = make_model(
        num_blocks=5, tie_word_embeddings=False, intermediate_size=(8, 16, 24, 32, 40)
    )
    subset = layer_subset(model, [0, 2, 4])
    assert subset.config.intermediate_size == (8, 24, 40)
    stream = model.embedding(IDS)
    for layer in (0, 2, 4):
        stream = model.run_layers(stream, slice(layer, layer + 1))
    assert_close(subset(IDS).logits, model.unembed(model.norm(stream)))
    assert subset.head.weight.data_ptr() != model.head.weight.data_ptr()


def test_compressed_layers_follow_their_blocks():
    factors = {"parts": [{"left": (24, 1), "right": (1, 16), "num_terms": 4}]}
    model = make_model(compressed_layers={"blocks.2.feed_forward.up_proj": factors})
    subset = layer_subset(model, [2, 0])
    assert list(subset.config.layer_shapes) == ["blocks.0.feed_forward.up_proj"]
    stream = model.run_layers(model.embedding(IDS), slice(2, 3))
    stream = model.run_layers(stream, slice(0, 1))
    assert_close(subset(IDS).hidden, model.norm(stream))


@pytest.mark.parametrize("layers", [[], [3], [-1], [True]])
def test_layers_out_of_range(layers):
    with pytest.raises(ValueError, match="init_layers"):
        subset_config(make_model().config, layers)


def test_the_configuration_alone_needs_no_torch():
    code = "import sys, mobilellm.models.layer_subset; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert done.stdout.strip() == "False"
