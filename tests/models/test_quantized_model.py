"""Whole models with quantized matrices under every way of sharing blocks."""

import io

import pytest
import torch
from rich.console import Console

from mobilellm.accounting import count_parameters, decode_bytes_per_token, training_memory_bytes
from mobilellm.accounting.explain import explain_model, explain_training
from mobilellm.accounting.memory import weight_bytes
from mobilellm.accounting.storage import effective_bits, stored_tensors
from mobilellm.accounting.table import model_table
from mobilellm.checkpoint import load_model, save_model, stored_bytes
from mobilellm.compression.apply import with_layers
from mobilellm.formats.huggingface import export_huggingface, import_huggingface
from mobilellm.layers import materialize
from mobilellm.layers.quantized import QuantizedEmbedding, QuantizedLinear
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.cache import KVCache
from mobilellm.models.decoding import MIN_NEW_TOKENS, can_pack
from mobilellm.models.generation import generate
from mobilellm.models.layer_subset import layer_subset

INT4, ASYMMETRIC = {"bits": 4, "group": 8}, {"bits": 4, "group": 8, "symmetric": False}
KINDS = {
    "int4, tied": {"blocks": INT4, "embedding": {"bits": 8}},
    "NF4, untied": {"blocks": INT4 | {"levels": "normal"}, "embedding": ASYMMETRIC, "head": INT4},
    "int8 inputs": {"blocks": {"bits": 8, "activation_bits": 8}, "embedding": {"bits": 8}},
    "floats between": {"blocks.1": ASYMMETRIC},
}
SHARING = {
    "immediate": {},
    "reverse": {"layer_sharing": "reverse"},
    "share_kv": {"layer_sharing": "repeat_all", "share_kv": "first"},
}


def make_config(kind, **changes):
    config = ModelConfig(
        vocab_size=62, hidden_size=24, intermediate_size=40, num_blocks=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=64, block_repeats=2,
        tie_word_embeddings="head" not in KINDS[kind], **changes,
    )  # fmt: skip
    layers = {
        name: {"quantized": values}
        for name in config.matrix_sizes
        for prefix, values in KINDS[kind].items()
        if name.startswith(prefix)
    }
    return ModelConfig.from_dict(config.to_dict() | {"compressed_layers": layers})


def make_model(kind, **changes):
    config = make_config(kind, **changes)
    dense = MobileLLM(ModelConfig.from_dict(config.to_dict() | {"compressed_layers": {}})).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4 + (parameter.dim() == 1))
    layers = {}
    for name, shape in config.layer_shapes.items():
        one = QuantizedEmbedding if name == "embedding" else QuantizedLinear
        layers[name] = one.nearest(dense.get_submodule(name).weight, shape.quantized)
    model = with_layers(dense, layers)
    assert model.config == config
    return model


def dense_twin(model):
    linears = {}
    for name in model.config.layer_shapes:
        weight = materialize(model.get_submodule(name))
        linears[name] = torch.nn.Linear(*weight.shape[::-1], bias=False)
        linears[name].weight = torch.nn.Parameter(weight)
    return with_layers(model, linears)


def make_ids(length=11, rows=2):
    return torch.randint(3, 62, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sharing", SHARING.values(), ids=SHARING)
def test_a_quantized_model_is_a_model(kind, sharing, tmp_path):
    model = make_model(kind, **sharing)
    with torch.no_grad():
        whole = model(make_ids(12)).logits
        if kind != "int8 inputs":
            twin = dense_twin(model)
            torch.testing.assert_close(whole, twin(make_ids(12)).logits, atol=1e-4, rtol=1e-4)
        cache = KVCache(model.config)
        steps = [
            model(part, cache).logits
            for part in (make_ids(12)[:, :5], *make_ids(12)[:, 5:].split(1, dim=1))
        ]
    # An input that is rounded to another of 256 values changes the logits a little.
    near = 0.1 if kind == "int8 inputs" else 1e-4
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=near, rtol=near)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model").eval()
    assert loaded.config == model.config
    assert torch.equal(loaded(make_ids()).logits, model(make_ids()).logits)
    subset = layer_subset(model, [0, 3])
    assert torch.equal(
        materialize(subset.blocks[1].feed_forward.up_proj),
        materialize(model.blocks[model.config.layer_order[3]].feed_forward.up_proj),
    )


@pytest.mark.parametrize("new", [6, MIN_NEW_TOKENS])
@pytest.mark.parametrize("kind", KINDS)
def test_generation_equals_the_naive_loop(kind, new):
    model, prompts = make_model(kind), make_ids(4)
    assert can_pack(model, 2) in (False, kind != "int8 inputs")
    text = prompts
    with torch.no_grad():
        for _ in range(new):
            text = torch.cat([text, model(text).logits[:, -1:].argmax(-1)], dim=1)
    generated = generate(model, prompts, new, stop_at_eos=False)
    if kind != "int8 inputs":
        assert torch.equal(generated, text)
    assert generated.shape == text.shape
    layers = [one for one in model.modules() if isinstance(one, QuantizedLinear)]
    assert layers and all(one._dense is None for one in layers), "the copies are gone"


@pytest.mark.parametrize("kind", KINDS)
def test_counts_and_bytes_follow_from_the_configuration(kind, tmp_path):
    model = make_model(kind)
    config, dense = model.config, dense_twin(model).config
    counts, packed = count_parameters(config), sum(p.numel() for p in model.parameters())
    assert counts == count_parameters(dense)
    quantized = [n for n, s in config.layer_shapes.items() if s.kind == "quantized"]
    sizes = config.matrix_sizes
    assert counts.stored == packed + sum(sizes[name][0] * sizes[name][1] for name in quantized)
    for dtype in (torch.float32, torch.bfloat16):
        tensors = stored_tensors(config, 8 * dtype.itemsize)
        total = sum(one.bits for one in tensors) / 8
        assert total == stored_bytes(model, dtype) == stored_bytes(model.to(dtype))
        save_model(model, tmp_path / str(dtype))
        written = (tmp_path / str(dtype) / "model.safetensors").read_bytes()
        header = 8 + int.from_bytes(written[:8], "little")
        assert len(written) - header == total
        assert sum(one.parameters for one in tensors) == counts.stored
        assert effective_bits(config, 8 * dtype.itemsize) == 8 * total / counts.stored
    assert weight_bytes(config, 16) == stored_bytes(model, torch.float16)
    assert decode_bytes_per_token(config) < decode_bytes_per_token(dense)
    assert decode_bytes_per_token(dense, bits=4) <= decode_bytes_per_token(config)
    memory, of_dense = (training_memory_bytes(c, 1, 8) for c in (config, dense))
    assert memory.optimizer == 8 * packed < of_dense.optimizer
    assert memory.gradients == 4 * packed
    assert memory.weights < of_dense.weights


def test_explain_shows_the_bits_of_each_kind_and_of_the_file():
    explained = explain_model(make_config("int4, tied"), 8)
    rows = {row["matrix"]: row for row in explained["compressed_layers"]}
    assert rows["q_proj"]["bits_per_weight"] == 4 + 16 / 8
    assert rows["embedding"]["bits_per_weight"] == 8 + 16 / 24
    assert rows["down_proj"]["stored_as"] == "int4 in groups of 8"
    norms = 5 * 24
    stored = explained["parameters"]["stored"]
    table = 62 * 24 * 8 + 62 * 16
    matrices = (stored - norms - 62 * 24) * 6
    for bits in (16, 32):
        total = table + matrices + norms * bits
        assert explained["file"]["bytes"][str(bits)] == total / 8
        assert explained["file"]["bits_per_weight"][str(bits)] == total / stored
    assert explained["file"]["in_floats"] == ["norms"]
    training = explain_training(
        make_config("int4, tied"), 8, micro_batch_size=1, precision="32-true", optimizer="adamw",
        activation_checkpointing=False,
    )  # fmt: skip
    console = Console(width=160, file=io.StringIO())
    console.print(model_table(explained | training))
    text = console.file.getvalue()
    assert "2 of 2: int4 in groups of 8; 6.000 bits per weight" in text
    assert "bits per weight, with norms in 32-bit floats" in text
    assert "file" not in explain_model(dense_twin(make_model("int4, tied")).config, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_export_has_the_weights_that_the_layers_compute(dtype, tmp_path):
    model = make_model("NF4, untied").to(dtype)
    export_huggingface(model, tmp_path / "hf")
    theirs = import_huggingface(tmp_path / "hf", dtype=None)
    assert theirs.norm.weight.dtype == dtype
    for name in model.config.matrix_sizes:
        if name.startswith(("embedding", "head")):
            weight = materialize(model.get_submodule(name)).to(dtype)
            assert torch.equal(theirs.get_submodule(name).weight, weight)
    torch.testing.assert_close(theirs(make_ids()).logits, model(make_ids()).logits)
    assert model(make_ids()).logits.dtype == dtype


def test_gradients_pass_through_frozen_weights():
    model = make_model("int4, tied")
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(make_ids()).logits
        logits.float().square().mean().backward()
    assert logits.dtype == torch.bfloat16
    assert {name.rpartition(".")[2] for name, _ in model.named_parameters()} == {"weight"}
    for name, parameter in model.named_parameters():
        assert "norm" in name and parameter.grad.any(), name
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


def test_a_new_model_with_quantized_matrices_has_no_random_weights():
    model = MobileLLM(make_config("NF4, untied"))
    assert model(make_ids()).logits.abs().max() < 1e-6
