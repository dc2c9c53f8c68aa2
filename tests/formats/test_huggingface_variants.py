"""Folders of other architectures than Llama, and other layouts of its weights."""

import json

import pytest
import torch
import torch.nn.functional as F
from tiny_tokenizers import make_byte_level

from mobilellm.formats.huggingface import export_huggingface, import_huggingface
from mobilellm.formats.huggingface.architectures import NotRepresentable
from mobilellm.formats.huggingface.config import config_from_huggingface
from mobilellm.formats.model_folder import open_config
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.generation import generate

SIZES = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 4, "rms_norm_eps": 1e-4,
    "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip


def make_ids(length=24):
    return torch.randint(0, 61, (2, length), generator=torch.Generator().manual_seed(1))


def largest_difference(ours, theirs):
    with torch.no_grad():
        return (ours(make_ids()).logits - theirs(make_ids()).logits).abs().max().item()


class MetaModel:
    """Meta's MobileLLM, written by hand from its description in papers and code.

    With `layer_sharing`, each layer is applied twice in a row, each time with its own keys and
    values. With `share_embedding`, there is no head: the embedding is used.
    """

    def __init__(self, config, seed=0):
        draw = torch.Generator().manual_seed(seed)
        self.config = config
        width, inner = config["hidden_size"], config["intermediate_size"]
        self.head_dim = width // config["num_attention_heads"]
        keys = config["num_key_value_heads"] * self.head_dim
        shapes = {"model.embed_tokens.weight": (config["vocab_size"], width)}
        for layer in range(config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            shapes |= {
                f"{prefix}self_attn.q_proj.weight": (width, width),
                f"{prefix}self_attn.k_proj.weight": (keys, width),
                f"{prefix}self_attn.v_proj.weight": (keys, width),
                f"{prefix}self_attn.o_proj.weight": (width, width),
                f"{prefix}mlp.gate_proj.weight": (inner, width),
                f"{prefix}mlp.up_proj.weight": (inner, width),
                f"{prefix}mlp.down_proj.weight": (width, inner),
                f"{prefix}input_layernorm.weight": (width,),
                f"{prefix}post_attention_layernorm.weight": (width,),
            }
        shapes["model.norm.weight"] = (width,)
        if not config["share_embedding"]:
            shapes["lm_head.weight"] = (config["vocab_size"], width)
        self.state = {
            name: torch.randn(shape, generator=draw) * 0.3 + (len(shape) == 1)
            for name, shape in shapes.items()
        }

    def __call__(self, ids):
        x = self.state["model.embed_tokens.weight"][ids]
        for layer in range(self.config["num_hidden_layers"]):
            for _ in range(2 if self.config["layer_sharing"] else 1):
                x = self.layer(x, f"model.layers.{layer}.")
        x = self.norm(x, "model.norm")
        head = "model.embed_tokens" if self.config["share_embedding"] else "lm_head"
        return x @ self.state[f"{head}.weight"].T

    def layer(self, x, prefix):
        def project(y, name):
            return y @ self.state[f"{prefix}{name}.weight"].T

        y = self.norm(x, f"{prefix}input_layernorm")
        query, key, value = (
            project(y, f"self_attn.{name}_proj").unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for name in "qkv"
        )
        query, key = self.rotate(query), self.rotate(key)
        group = self.config["num_attention_heads"] // self.config["num_key_value_heads"]
        key, value = (part.repeat_interleave(group, dim=1) for part in (key, value))
        scores = query @ key.transpose(-1, -2) / self.head_dim**0.5
        causal = torch.ones(scores.shape[-2:]).tril().bool()
        mixed = scores.masked_fill(~causal, -torch.inf).softmax(-1) @ value
        x = x + project(mixed.transpose(1, 2).flatten(2), "self_attn.o_proj")
        y = self.norm(x, f"{prefix}post_attention_layernorm")
        gate, up = project(y, "mlp.gate_proj"), project(y, "mlp.up_proj")
        return x + project(F.silu(gate) * up, "mlp.down_proj")

    def norm(self, x, name):
        scale = (x.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"]) ** -0.5
        return x * scale * self.state[f"{name}.weight"]

    def rotate(self, x):
        half = self.head_dim // 2
        turns = self.config["rope_theta"] ** (-torch.arange(half) / half)
        angles = torch.arange(x.shape[-2])[:, None] * turns
        first, second = x[..., :half], x[..., half:]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


@pytest.mark.parametrize("model_type", ["mobilellm", "llama"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_metas_checkpoints_have_the_logits_of_their_code(tmp_path, model_type, shared, tied):
    """As it was released (`mobilellm`), and as its own training code saves it (`llama`)."""
    config = {k: v for k, v in SIZES.items() if k not in ("head_dim", "initializer_range")}
    config |= {"model_type": model_type, "share_embedding": tied, "layer_sharing": shared,
               "tie_word_embeddings": False, "rope_theta": 3e4, "hidden_act": "silu",
               "attention_bias": False, "use_cache": not shared}  # fmt: skip
    reference = MetaModel(config)
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    torch.save(reference.state, tmp_path / "pytorch_model.bin")
    ours = import_huggingface(tmp_path)
    assert (ours.config.block_repeats, ours.config.layer_sharing) == (
        2 if shared else 1,
        "immediate",
    )
    assert (ours.head is None) == tied
    ids = make_ids()
    assert (ours(ids).logits - reference(ids)).abs().max().item() < 1e-4
    # Token by token, with a cache of keys and values.
    first = generate(ours, ids[:1, :4], 6)
    expected = ids[:1, :4]
    for _ in range(6):
        expected = torch.cat((expected, reference(expected)[:, -1:].argmax(-1)), dim=1)
    assert first[0].tolist()[:10] == expected[0].tolist() or 2 in first[0, 4:].tolist()


def save(theirs, folder, **changes):
    theirs.save_pretrained(folder)
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(values), encoding="utf-8")
    return folder


def make_llama4(**changes):
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    torch.manual_seed(0)
    settings = SIZES | {
        "intermediate_size_mlp": 48, "no_rope_layers": [1, 1, 1], "moe_layers": [],
        "attn_temperature_tuning": False, "attention_chunk_size": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": 3e4},
        "tie_word_embeddings": True, "use_qk_norm": True,
    }  # fmt: skip
    return Llama4ForCausalLM(Llama4TextConfig(**(settings | changes))).eval()


@pytest.mark.parametrize("changes", [{}, {"use_qk_norm": False, "tie_word_embeddings": False}])
def test_a_mobilellm_r1_comes_in_with_equal_logits(tmp_path, changes):
    """Llama 4 without experts; it rotates neighbouring entries, and its QK-norm has no weights."""
    pytest.importorskip("transformers")
    theirs = make_llama4(**changes)
    ours = import_huggingface(save(theirs, tmp_path))
    assert ours.config.qk_norm == ("l2" if changes == {} else "none")
    assert ours.config.block_shapes[0].intermediate_size == 48
    assert largest_difference(ours, theirs) < 1e-4


def test_attention_in_chunks_limits_the_context(tmp_path, caplog):
    pytest.importorskip("transformers")
    theirs = make_llama4(attention_chunk_size=32)
    ours = import_huggingface(save(theirs, tmp_path))
    assert ours.config.max_position_embeddings == 32
    assert "attention_chunk_size=32 limits the context" in caplog.text
    assert largest_difference(ours, theirs) < 1e-4


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen3", "arcee", "smollm3"])
def test_what_a_config_leaves_out_is_what_transformers_takes(model_type):
    transformers = pytest.importorskip("transformers")
    sizes = {k: v for k, v in SIZES.items() if k not in ("rms_norm_eps", "initializer_range")}
    theirs = transformers.AutoConfig.for_model(
        model_type, **sizes, no_rope_layers=[1, 1, 1], pad_token_id=None
    )
    ours = config_from_huggingface(sizes | {"model_type": model_type, "no_rope_layers": [1, 1, 1]})
    assert ours.rms_norm_eps == theirs.rms_norm_eps
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings
    del sizes["max_position_embeddings"]
    theirs = transformers.AutoConfig.for_model(model_type, **sizes, pad_token_id=None)
    given = sizes | {"model_type": model_type, "no_rope_layers": [1, 1, 1]}
    if getattr(theirs, "sliding_window", None) is None:
        context = config_from_huggingface(given).max_position_embeddings
        assert context == theirs.max_position_embeddings
        return
    with pytest.raises(NotRepresentable, match=f"sliding_window={theirs.sliding_window} cannot"):
        config_from_huggingface(given)
    assert config_from_huggingface(given | {"sliding_window": None}).num_blocks == 3


def test_what_llama_4_leaves_out_is_what_transformers_takes():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.Llama4TextConfig()
    sizes = SIZES | {"intermediate_size_mlp": 48, "no_rope_layers": [1, 1, 1], "moe_layers": []}
    del sizes["rms_norm_eps"], sizes["max_position_embeddings"]
    ours = config_from_huggingface(sizes | {"model_type": "llama4_text"})
    assert ours.rms_norm_eps == theirs.rms_norm_eps
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.max_position_embeddings == theirs.attention_chunk_size


@pytest.mark.parametrize("tied", [True, False])
def test_a_width_that_the_heads_do_not_divide_goes_out_as_mistral(tied, tmp_path):
    """As after pruning of heads; Llama of transformers refuses it."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = dict(vocab_size=61, hidden_size=24, intermediate_size=40, num_blocks=2,
                 num_attention_heads=5, head_dim=4, tie_word_embeddings=tied)  # fmt: skip
    model = MobileLLM(ModelConfig(**sizes))
    export_huggingface(model, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(theirs).__name__ == "MistralForCausalLM"
    assert largest_difference(model, theirs) < 1e-5
    assert largest_difference(import_huggingface(tmp_path / "out"), theirs) < 1e-5
    relu = MobileLLM(ModelConfig(**sizes, feed_forward="relu"))
    with pytest.raises(ValueError, match="not a multiple of the 5 query heads; --custom-code"):
        export_huggingface(relu, tmp_path / "relu")


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 24}  # fmt: skip


@pytest.mark.parametrize("scaling", [LLAMA3, {"rope_type": "linear", "factor": 4.0}], ids=str)
@pytest.mark.parametrize("older", [True, False])
def test_scaled_rotary_frequencies_come_in_and_go_out(tmp_path, scaling, older):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    rope = scaling | {"rope_theta": 100.0}
    config = transformers.LlamaConfig(**SIZES, rope_parameters=rope)
    theirs = transformers.LlamaForCausalLM(config).eval()
    folder = save(theirs, tmp_path / "in")
    if older:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        del values["rope_parameters"]
        values |= {"rope_theta": 100.0, "rope_scaling": scaling}
        (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    ours = import_huggingface(folder)
    assert ours.config.rope_scaling.to_dict() == scaling
    assert largest_difference(ours, theirs) < 1e-4
    plain = import_huggingface(save(theirs, tmp_path / "plain", rope_parameters=None))
    assert largest_difference(plain, theirs) > 1e-2
    export_huggingface(ours, tmp_path / "out")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert largest_difference(ours, again) < 1e-4
    ids = make_ids(5)
    expected = theirs.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=None)
    assert torch.equal(generate(ours, ids, 20, stop_at_eos=False), expected)


@pytest.mark.parametrize("name", ["Mistral", "SmolLM3", "Qwen3"])
def test_other_families_come_in_with_equal_logits(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    extra = {"no_rope_layers": [1, 1, 1]} if name == "SmolLM3" else {}
    sizes = SIZES | extra | ({"sliding_window": None} if name == "Mistral" else {})
    config = getattr(transformers, f"{name}Config")(**sizes, pad_token_id=0)
    theirs = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    ours = import_huggingface(save(theirs, tmp_path))
    assert largest_difference(ours, theirs) < 1e-4


def test_of_several_ends_the_tokenizers_is_used(tmp_path, caplog):
    config = ModelConfig(vocab_size=300, hidden_size=8, intermediate_size=8, num_blocks=1,
                         num_attention_heads=1)  # fmt: skip
    export_huggingface(MobileLLM(config), tmp_path)
    values = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(
        json.dumps(values | {"eos_token_id": [0, 2]}), encoding="utf-8"
    )
    assert open_config(tmp_path).eos_token_id == 0
    assert "has several end-of-text tokens, [0, 2]; texts end at 0 only" in caplog.text
    make_byte_level(tmp_path)
    assert open_config(tmp_path).eos_token_id == 2


def test_weights_in_shards_of_which_one_is_missing(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    theirs.save_pretrained(tmp_path, max_shard_size="10KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    with pytest.raises(FileNotFoundError, match=rf"{shards[1].name} is missing in .* lists it"):
        import_huggingface(tmp_path)
