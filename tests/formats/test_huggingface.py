import json
import os
from pathlib import Path

import pytest
import torch

from mobilellm.formats.huggingface import export_huggingface, import_huggingface
from mobilellm.formats.huggingface.config import config_from_huggingface
from mobilellm.formats.huggingface.config_export import config_to_huggingface
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.generation import generate

STORIES = os.environ.get("MOBILELLM_STORIES260K", "")


def make_config(**changes):
    sizes = dict(
        vocab_size=61, hidden_size=24, intermediate_size=40, num_blocks=3, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=48, rope_theta=3e4, rms_norm_eps=1e-4,
    )  # fmt: skip
    return ModelConfig(**(sizes | changes))


def make_model(**changes):
    torch.manual_seed(0)
    model = MobileLLM(make_config(**changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (parameter.dim() == 1))
    return model


def make_ids():
    return torch.randint(0, 61, (2, 13), generator=torch.Generator().manual_seed(1))


def make_llama(**changes):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = dict(
        vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=3, head_dim=4,
        num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=48,
        initializer_range=0.3, rms_norm_eps=1e-4,
        rope_parameters={"rope_type": "default", "rope_theta": 3e4},
    )  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**(sizes | changes)))


def largest_difference(ours, theirs):
    with torch.no_grad():
        return (ours(make_ids()).logits - theirs(make_ids()).logits).abs().max().item()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kv_heads", [6, 2])
def test_a_llama_comes_in_with_equal_logits(tmp_path, kv_heads, tied):
    theirs = make_llama(num_key_value_heads=kv_heads, tie_word_embeddings=tied)
    theirs.save_pretrained(tmp_path)
    ours = import_huggingface(tmp_path)
    assert largest_difference(ours, theirs) < 1e-5
    assert (ours.head is None) == tied
    assert ours.config == make_config(num_key_value_heads=kv_heads, tie_word_embeddings=tied)


def test_shards_and_pickles_come_in(tmp_path):
    theirs = make_llama()
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    assert largest_difference(import_huggingface(tmp_path / "shards"), theirs) < 1e-5
    (tmp_path / "bin").mkdir()
    theirs.config.save_pretrained(tmp_path / "bin")
    torch.save(theirs.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    assert largest_difference(import_huggingface(tmp_path / "bin"), theirs) < 1e-5
    torch.save({"model.norm.weight": Path("x")}, tmp_path / "bin" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin .* cannot be loaded safely"):
        import_huggingface(tmp_path / "bin")


def test_half_precision_comes_in_as_float32_unless_asked(tmp_path):
    make_llama().bfloat16().save_pretrained(tmp_path)
    assert import_huggingface(tmp_path).norm.weight.dtype == torch.float32
    assert import_huggingface(tmp_path, dtype=None).norm.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "architecture"),
    [
        ({}, "LlamaForCausalLM"),
        ({"tie_word_embeddings": False, "num_key_value_heads": 6}, "LlamaForCausalLM"),
        ({"block_repeats": 2, "layer_sharing": "reverse"}, "LlamaForCausalLM"),
        ({"block_repeats": 3, "layer_sharing": "repeat_all"}, "LlamaForCausalLM"),
        ({"block_repeats": 2, "layer_sharing": "sandwich"}, "LlamaForCausalLM"),
        ({"block_repeats": 2, "layer_sharing": "last_first", "qk_norm": "l2"}, "Qwen3ForCausalLM"),
        ({"head_dim": 10, "share_kv": "first"}, "LlamaForCausalLM"),
        ({"qk_norm": "l2", "block_repeats": 2}, "Qwen3ForCausalLM"),
        ({"qk_norm": "rms", "head_dim": 10}, "Qwen3ForCausalLM"),
        ({"feed_forward": "relu"}, "ArceeForCausalLM"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("uneven_schemes")
def test_a_model_goes_out_with_equal_logits(tmp_path, changes, architecture):
    transformers = pytest.importorskip("transformers")
    ours = make_model(**changes)
    export_huggingface(ours, tmp_path / "out")
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert type(theirs).__name__ == architecture
    assert not any(report.values()), report
    assert largest_difference(ours, theirs) < 2e-5
    assert (theirs.lm_head.weight is theirs.model.embed_tokens.weight) == (ours.head is None)
    assert theirs.dtype == torch.float32
    again = import_huggingface(tmp_path / "out")
    assert largest_difference(again, theirs) < 2e-5
    assert again.config.num_blocks == ours.config.num_layers


def test_token_ids_and_number_type_go_out(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = make_model(eos_token_id=7, bos_token_id=9).bfloat16()
    export_huggingface(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert theirs.dtype == torch.bfloat16
    assert theirs.generation_config.eos_token_id == 7
    assert theirs.config.bos_token_id == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"share_kv": "first", "block_repeats": 2},
            "Hugging Face architecture has share_kv='first'",
        ),
        (
            {"intermediate_size": [8, 9, 8]},
            "architecture has blocks of different sizes",
        ),
        ({"feed_forward": "relu", "qk_norm": "l2"}, "has feed_forward='relu' with qk_norm='l2'; a"),
    ],
)
def test_what_transformers_cannot_hold_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        export_huggingface(make_model(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_export_needs_an_empty_folder_and_a_real_tokenizer(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"tokenizer none.model does not exist; give a Sent"
    ):
        export_huggingface(make_model(), tmp_path / "out", "none.model")
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match="is not an empty folder; export into a new one"):
            export_huggingface(make_model(), folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "gpt2"},
            "model_type='gpt2' cannot be represented; use one of llama, mistral, q",
        ),
        ({"attention_bias": True}, "attention_bias=True cannot be represented"),
        ({"mlp_bias": True}, "mlp_bias=True cannot be represented"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' cannot be represented"),
        ({"use_sliding_window": True}, "use_sliding_window=True cannot be represented"),
        ({"quantization_config": {"bits": 4}}, "quantization_config=.* cannot be represented"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, r"rope_type='yarn' \(in rope_scaling"),
        (
            {"rope_parameters": {"rope_type": "dynamic"}},
            r"rope_type='dynamic' \(in .* cannot be rep",
        ),
        ({"rope_parameters": {"rope_type": "llama3"}}, "factor=0 must be a positive number"),
        (
            {"rope_parameters": {"full_attention": {}}},
            "rope_parameters=.* differs between kinds of",
        ),
        ({"rope_scaling": "linear"}, "rope_scaling='linear' must be null or an object"),
        ({"model_type": "mistral", "sliding_window": 8}, "sliding_window=8 cannot be represented"),
        (
            {"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"]},
            r"layer_types=\['full_attention', 'sliding_attention'\] cannot be represented",
        ),
        ({"model_type": "smollm3"}, None),
        (
            {"model_type": "smollm3", "no_rope_layers": [1, 0, 1]},
            r"no_rope_layers=\[1, 0, 1\] cannot be represented: layers without rotary",
        ),
        (
            {"model_type": "llama4_text", "no_rope_layers": [1, 1, 1]},
            "moe_layers=null cannot be rep",
        ),
        (
            {"model_type": "llama4_text", "no_rope_layers": [1, 1, 1], "moe_layers": [1]},
            r"moe_layers=\[1\] cannot be represented: they are mixtures of experts",
        ),
        (
            {"model_type": "llama4_text", "no_rope_layer_interval": 2},
            "no_rope_layer_interval=2 cannot be represented: every 2th layer",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 cannot be represented"),
        ({"hidden_size": None}, "hidden_size is missing; give a complete config.json"),
    ],
)
def test_what_this_family_cannot_hold_is_refused(tmp_path, changes, message):
    export_huggingface(make_model(), tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(
        json.dumps({key: value for key, value in values.items() if value is not None}),
        encoding="utf-8",
    )
    if message is None:  # three layers are too few for one without rotary embedding
        assert import_huggingface(tmp_path).config.num_layers == 3
        return
    with pytest.raises(ValueError, match=rf"config.json: {message}"):
        import_huggingface(tmp_path)


def test_older_configs_are_understood():
    values = config_to_huggingface(make_config(num_key_value_heads=6))
    del values["rope_parameters"], values["num_key_value_heads"], values["head_dim"]
    values |= {"rope_scaling": None, "eos_token_id": [2], "bos_token_id": None}
    assert config_from_huggingface(values) == make_config(num_key_value_heads=6)


def test_broken_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder .*none does not exist"):
        import_huggingface(tmp_path / "none")
    export_huggingface(make_model(), tmp_path)
    weights = (tmp_path / "model.safetensors").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"contains no weights; expected model.safe"):
        import_huggingface(tmp_path)
    index = {"weight_map": {"model.norm.weight": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(
        FileNotFoundError, match=r"model-1.safetensors is missing in .* although model"
    ):
        import_huggingface(tmp_path)
    weights.rename(tmp_path / "model.safetensors")
    values = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(
        json.dumps(values | {"num_hidden_layers": 2}), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"blocks.2.* is unknown: config.json describes a model"):
        import_huggingface(tmp_path)


def test_a_tied_head_must_be_a_copy(tmp_path):
    theirs = make_llama(tie_word_embeddings=True)
    theirs.config.save_pretrained(tmp_path)
    state = theirs.state_dict()
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert largest_difference(import_huggingface(tmp_path), theirs) < 1e-5
    torch.save(state | {"lm_head.weight": torch.ones(61, 24)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"lm_head.weight in .* differs from the embedding although"
    ):
        import_huggingface(tmp_path)


@pytest.mark.skipif(not STORIES, reason="MOBILELLM_STORIES260K is not set")
def test_a_real_pretrained_model_writes_its_story():
    from sentencepiece import SentencePieceProcessor

    words = SentencePieceProcessor(model_file=f"{STORIES}/tokenizer.model")
    text = words.decode(generate(import_huggingface(STORIES), torch.tensor([[1]]), 80)[0].tolist())
    assert text.startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the "
        "park. One day, she saw a big, red ball. She wanted to play with it, but it was too high."
    )
