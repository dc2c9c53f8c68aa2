"""The module that is compiled for devices computes what the model does, token by token."""

import pytest
import torch
from test_compressed_export import KINDS, TABLE, make_ids, make_model
from torch import nn

from mobilellm.formats.executorch.decoder import StaticDecoder
from mobilellm.formats.executorch.quantization import QuantizedTable, check_type

FACTORS = {"attention_multiplier": 1.5, "residual_multiplier": 0.7, "output_multiplier": 2.0}
LINEAR = {"rope_type": "linear", "factor": 4.0}
# Heads are grouped and blocks shared in all of them.
MODELS = {
    "factorised": {"layers": KINDS["factorised"], "layer_sharing": "reverse"},
    "shared keys": {"layers": KINDS["masked"], "share_kv": "first"},
    "untied": {"layers": {"head": TABLE}, "tie_word_embeddings": False, **FACTORS},
    "qk-norm": {"qk_norm": "rms", "rope_scaling": LINEAR},
    "relu": {"qk_norm": "l2", "feed_forward": "relu", "attention_multiplier": 1.5},
}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_it_predicts_what_the_model_does(name):
    model = make_model(**MODELS[name])
    decoder = StaticDecoder(model, context=13)
    decoder(torch.randint(61, (1, 13)), torch.tensor([0]), torch.tensor([2]))  # an earlier text
    ids = make_ids()[:1]
    wanted = model(ids).logits[0]
    padded = torch.cat((ids[:, :6], ids[:, :3]), dim=1)
    given = [decoder(padded, torch.tensor([0]), torch.tensor([5]))]
    given += [decoder(ids[:, i : i + 1], torch.tensor([i])) for i in range(6, 13)]
    torch.testing.assert_close(torch.cat(given), wanted[5:], atol=2e-5, rtol=2e-5)
    # Each stored block is there once, and a tied table too.
    dense = {name: p for name, p in decoder.named_parameters() if "blocks" in name}
    assert len(dense) == sum("blocks" in n for n in model.config.matrix_sizes) + 4 + 4 * (
        model.config.qk_norm != "none"
    )
    assert (decoder.head is None) == model.config.tie_word_embeddings


def test_a_table_in_8_bits_is_near_the_table():
    weight = torch.randn(50, 24) * torch.rand(50, 1)
    weight[7] = 0
    table = QuantizedTable(weight)
    rows = table(torch.arange(50).unsqueeze(0))[0]
    largest = weight.abs().amax(dim=1, keepdim=True)
    assert ((rows - weight).abs() <= largest / 254 * 1.001).all()
    assert rows[7].count_nonzero() == 0


def test_rows_without_whole_groups_are_refused():
    decoder = StaticDecoder(make_model(), context=4)
    check_type(decoder, "8da8w")
    message = r"attention.q_proj has rows of 24 weights, and the type 8da4w needs whole groups of"
    with pytest.raises(ValueError, match=message):
        check_type(decoder, "8da4w")
    decoder.blocks = nn.ModuleList([nn.Linear(80, 8)])
    with pytest.raises(ValueError, match="of 32: 64 or 96 would do; use --type 8da8w"):
        check_type(decoder, "8da4w")
    with pytest.raises(ValueError, match="type='int4' is not known; use one of"):
        check_type(decoder, "int4")
