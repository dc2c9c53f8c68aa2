"""Multipliers of residual branches, attention scores and logits, against transformers' Granite."""

import json

import pytest
import torch
from reference_models import copy_to_transformers, make_config, make_ids, make_model

from mobilellm.checkpoint import load_model, save_model
from mobilellm.formats.huggingface import export_huggingface, import_huggingface
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.cache import KVCache
from mobilellm.models.decoding import PackedDecoder
from mobilellm.models.layer_subset import layer_subset

FACTORS = {"residual_multiplier": 0.3, "attention_multiplier": 0.6, "output_multiplier": 0.45}
SHAPES = [
    {},
    {"tie_word_embeddings": False},
    {"num_key_value_heads": 6, "qk_norm": "rms"},
    {"qk_norm": "l2"},
    {"feed_forward": "relu"},
    {"block_repeats": 2, "layer_sharing": "reverse"},
]


def as_granite(model):
    """Granite has the three multipliers of its own; its weights are named like Llama's."""
    from transformers import GraniteConfig, GraniteForCausalLM

    config, llama = model.config, copy_to_transformers(model)
    granite = GraniteForCausalLM(
        GraniteConfig(
            vocab_size=config.vocab_size, hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size, num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            max_position_embeddings=config.max_position_embeddings,
            rms_norm_eps=config.rms_norm_eps, tie_word_embeddings=config.tie_word_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            attention_bias=False, mlp_bias=False, attention_dropout=0.0, embedding_multiplier=1.0,
            residual_multiplier=config.residual_multiplier,
            attention_multiplier=config.attention_multiplier * config.head_dim**-0.5,
            logits_scaling=1 / config.output_multiplier,
        )
    )  # fmt: skip
    granite.load_state_dict(llama.state_dict())
    return granite


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_the_logits_are_those_of_granite(tied):
    model = make_model(tie_word_embeddings=tied, **FACTORS)
    wanted = as_granite(model)(make_ids()).logits
    torch.testing.assert_close(model(make_ids()).logits, wanted, atol=1e-5, rtol=1e-5)
    for name in FACTORS:
        plain = make_model(tie_word_embeddings=tied, **FACTORS | {name: 1.0})
        assert not torch.allclose(plain(make_ids()).logits, wanted, atol=1e-3), name


@pytest.mark.parametrize("changes", SHAPES, ids=str)
@torch.no_grad()
def test_every_way_to_the_logits_uses_them(changes):
    """A cache, captured attention, packed weights, layers by themselves."""
    model, ids = make_model(**changes, **FACTORS), make_ids(2, 12)
    wanted = model(ids).logits
    captured = model(ids, capture=["attention"]).logits
    torch.testing.assert_close(captured, wanted, atol=1e-4, rtol=1e-4)
    cache, decoder = KVCache(model.config), PackedDecoder(model, 2)
    model(ids[:, :4], cache, logits=False)
    given = torch.stack([decoder.step(ids[:, i], cache) for i in range(4, 12)], dim=1)
    torch.testing.assert_close(given, wanted[:, 4:], atol=1e-4, rtol=1e-4)
    stream = model.run_layers(model.embedding(ids), slice(None))
    torch.testing.assert_close(model.unembed(model.norm(stream)), wanted, atol=1e-4, rtol=1e-4)
    whole = layer_subset(model, range(model.config.num_layers))
    torch.testing.assert_close(whole(ids).logits, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", SHAPES, ids=str)
@torch.no_grad()
def test_an_export_has_them_in_its_weights(changes, tmp_path):
    from transformers import AutoModelForCausalLM

    model = make_model(**changes, **FACTORS)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_huggingface(model, tmp_path / "export")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "export", dtype=torch.float32)
    wanted = model(make_ids()).logits
    torch.testing.assert_close(theirs(make_ids()).logits, wanted, atol=1e-5, rtol=1e-4)
    assert "multiplier" not in (tmp_path / "export/config.json").read_text(encoding="utf-8")
    ours = import_huggingface(tmp_path / "export")
    torch.testing.assert_close(ours(make_ids()).logits, wanted, atol=1e-5, rtol=1e-4)
    assert ours.config.residual_multiplier == ours.config.output_multiplier == 1
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_model_folder_keeps_them(tmp_path):
    model = make_model(**FACTORS)
    save_model(model, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert {name: values[name] for name in FACTORS} == FACTORS
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded(make_ids()).logits, model(make_ids()).logits)


def test_a_model_without_them_is_written_as_before():
    assert not {*FACTORS} & {*make_config().to_dict()}
    assert ModelConfig.from_dict(make_config(**FACTORS).to_dict()) == make_config(**FACTORS)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), "large", 1e9])
@pytest.mark.parametrize("name", FACTORS)
def test_a_factor_that_makes_no_sense_is_refused(name, value):
    with pytest.raises(ValueError, match=name):
        make_config(**{name: value})


def test_gradients_are_those_of_the_plain_formula():
    """With the fused addition, against scaled output projections of a model without multipliers."""
    model = make_model(**FACTORS)
    folded = MobileLLM(make_config())
    state = dict(model.state_dict())
    for name, tensor in state.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            state[name] = tensor * 0.3
        if name.endswith("q_proj.weight"):
            state[name] = tensor * 0.6
    state["norm.weight"] = state["norm.weight"] * 0.45
    folded.load_state_dict(state)
    for one in (model, folded):
        one(make_ids()).logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        factor = {"o_proj": 0.3, "down_proj": 0.3, "q_proj": 0.6}.get(name.split(".")[-2], 1.0)
        factor = 0.45 if name == "norm.weight" else factor
        wanted = folded.get_parameter(name).grad * factor
        torch.testing.assert_close(parameter.grad, wanted, atol=1e-5, rtol=1e-3)
