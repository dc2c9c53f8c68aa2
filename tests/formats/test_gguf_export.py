"""Models that go out as GGUF files, run by llama.cpp itself."""

import os
import sys

import numpy as np
import pytest
import torch
from gguf_writing import pairs_from_halves
from test_gguf import make_model
from tiny_tokenizers import make_byte_level, make_tokenizer

from mobilellm.accounting.engine_files import engine_file_bytes
from mobilellm.evaluation.engines import LlamaCpp, TorchEngine
from mobilellm.formats.gguf import export_gguf, import_gguf

gguf = pytest.importorskip("gguf")
UP = "blocks.0.feed_forward.up_proj"
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 2.0, "high_freq_factor": 3.0,
          "original_max_position_embeddings": 64}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 4.0}
LOSSLESS = {"byte_fallback": True, "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False}  # fmt: skip
FACTORS = {"attention_multiplier": 1.5, "residual_multiplier": 0.7, "output_multiplier": 2.0}
PARTS = {"parts": [{"left": (24, 8), "right": (4, 8)}, {"left": (96, 1), "right": (1, 64)}]}
MODELS = {
    "dense": ({}, "llama"),
    "untied": ({"tie_word_embeddings": False, **FACTORS}, "llama"),
    "shared": ({"block_repeats": 2, "layer_sharing": "reverse"}, "llama"),
    "compressed": ({"compressed_layers": {UP: PARTS, "embedding": {"nonzero": 9000}}}, "llama"),
    "llama3 rope": ({"rope_scaling": LLAMA3}, "llama"),
    "rms": ({"qk_norm": "rms", "head_dim": 24, "rope_scaling": LINEAR}, "qwen3"),
    "l2": ({"qk_norm": "l2", **FACTORS}, "qwen3"),
    "different blocks": (
        {"intermediate_size": (96, 64), "num_attention_heads": (4, 2), "head_dim": 16,
         "num_key_value_heads": (2, 1), "block_repeats": 2}, "deci"
    ),
}  # fmt: skip
NEW_TOKENS = 64


def randomized(**changes):
    """A model whose most likely tokens are far from equally likely."""
    model = make_model(**changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.dim() == 1))
    return model


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    return {
        "sentencepiece": make_tokenizer(folder / "words", vocab_size=300, **LOSSLESS),
        "byte_level": make_byte_level(folder / "bytes"),
    }


def assert_same_continuation(ours, theirs, tokens, never):
    """Equal tokens; a difference where two tokens are equally likely to 1e-2 does not count."""
    wanted = ours.run(tokens, NEW_TOKENS, never=never).tokens
    given = theirs.run(tokens, NEW_TOKENS, never=never).tokens
    assert len(given) == NEW_TOKENS
    for place, (one, other) in enumerate(zip(wanted, given, strict=True)):
        if one != other:
            likely = ours.prefill([*tokens, *wanted[:place]]).log_probabilities
            assert likely[one] - likely.get(other, -np.inf) < 1e-2, f"token {place} differs"
            return


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_llama_cpp_continues_a_text_as_we_do(name, tokenizers, tmp_path):
    pytest.importorskip("xllamacpp")
    changes, architecture = MODELS[name]
    model = randomized(**changes)
    kind = "byte_level" if name in ("shared", "rms") else "sentencepiece"
    path = tmp_path / "m.gguf"
    written = export_gguf(model, path, tokenizers[kind], kind="f32")
    assert written.architecture == architecture
    back, _ = import_gguf(path)
    ids = torch.arange(40).view(2, 20)
    # Multipliers become part of the weights, which rounds them.
    tolerance = 1e-4 if "output_multiplier" in changes else 1e-5
    torch.testing.assert_close(back(ids).logits, model(ids).logits, atol=tolerance, rtol=tolerance)
    assert (back.config.num_blocks, back.config.block_repeats) == (model.config.num_layers, 1)
    never = [0, 1, 2]
    with LlamaCpp(path, cache_type="f32", context=128, top=8) as theirs:
        ours = TorchEngine(model, top=8)
        assert_same_continuation(ours, theirs, [5, 50, 77, 200], never)
        step, same = theirs.prefill([60, 61, 62]), ours.prefill([60, 61, 62])
        for token in (70, 280):
            known = same.log_probabilities
            for one, value in (step.log_probabilities or {same.token: known[same.token]}).items():
                assert value == pytest.approx(known[one], abs=1e-4)
            step, same = theirs.decode(token), ours.decode(token)


@pytest.mark.parametrize("changes", [*(changes for changes, _ in MODELS.values()),
                                     {"qk_norm": "l2"}], ids=str)  # fmt: skip
def test_the_size_of_a_file_is_known_before(changes, tmp_path):
    model = randomized(**changes)
    export_gguf(model, tmp_path / "m.gguf", kind="f16")
    found = gguf.GGUFReader(tmp_path / "m.gguf").tensors
    size = sum(int(tensor.n_bytes) for tensor in found)
    assert engine_file_bytes(model.config, "llamacpp", "f16") == size


@pytest.mark.parametrize(("kind", "bits"), [("f16", 16), ("q8_0", 8.5), ("q4_0", 4.5), ("q4_1", 5)])
def test_types_have_their_size_and_values(kind, bits, tokenizers, tmp_path):
    model = randomized(block_repeats=2)
    written = export_gguf(model, tmp_path / "m.gguf", tokenizers["sentencepiece"], kind=kind)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert len(found) == 2 + 4 * 9, "the tied table is there once"
    assert written.tensor_bytes == sum(int(tensor.n_bytes) for tensor in found.values())
    vectors = 64 * (2 * 4 + 1)
    expected = (written.num_weights - vectors) * bits + vectors * 32
    assert written.bits_per_weight * written.num_weights == pytest.approx(expected)
    layer = sum(p.numel() for p in model.blocks[0].parameters())
    expected = 2 * ((layer - 128) * bits + 128 * 32) / 8
    assert written.repeated_bytes == pytest.approx(expected)
    for layer, block in enumerate(model.config.layer_order):
        attention = model.blocks[block].attention
        for name, weight in (("q", attention.q_proj.weight), ("v", attention.v_proj.weight)):
            tensor = found[f"blk.{layer}.attn_{name}.weight"]
            assert tensor.tensor_type.name == kind.upper()
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
            rows = pairs_from_halves(weight, 4) if name == "q" else weight
            wanted = gguf.quantize(rows.detach().numpy(), tensor.tensor_type)
            assert np.array_equal(values, gguf.dequantize(wanted, tensor.tensor_type))


def test_types_of_the_table_and_of_rows_that_blocks_do_not_divide(tokenizers, tmp_path):
    model, words = make_model(intermediate_size=100), tokenizers["sentencepiece"]
    options = {"kind": "q4_0", "table_kind": "q8_0"}
    message = (
        r"blk.0.ffn_down.weight has rows of 100 weights, and the type q4_0 needs whole blocks of "
        r"32: an intermediate_size of 96 or 128 would do; use --fallback f16"
    )
    with pytest.raises(ValueError, match=message):
        export_gguf(model, tmp_path / "m.gguf", words, **options)
    assert not list(tmp_path.iterdir())
    written = export_gguf(model, tmp_path / "m.gguf", words, fallback="f16", **options)
    assert written.types["token_embd.weight"] == "q8_0"
    assert written.types["blk.1.ffn_up.weight"] == "q4_0"
    assert {name for name, kind in written.types.items() if kind == "f16"} == {
        "blk.0.ffn_down.weight", "blk.1.ffn_down.weight"
    }  # fmt: skip
    assert "f16: blk.*.ffn_down (2), 12,800 weights" in written.text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feed_forward": "relu"}, "no GGUF architecture has feed_forward='relu'; only 'swiglu'"),
        ({"share_kv": "first", "block_repeats": 2}, "no GGUF architecture has share_kv='first'; o"),
        ({"qk_norm": "l2", "intermediate_size": (64, 96)}, "blocks of different sizes with qk_nor"),
        ({"qk_norm": "rms", "rope_scaling": LLAMA3}, "rope_scaling of the type llama3 with qk_nor"),
    ],
)
def test_what_llama_cpp_cannot_hold_is_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_gguf(make_model(**changes), tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_weights_that_a_type_cannot_hold_are_refused(tmp_path):
    model = make_model()
    with torch.no_grad():
        model.blocks[1].feed_forward.up_proj.weight[3, 4] = 7e4
    with pytest.raises(ValueError, match=r"ffn_up.weight has values above 65504, the largest"):
        export_gguf(model, tmp_path / "m.gguf", kind="f16")
    with torch.no_grad():
        model.norm.weight[0] = float("nan")
    with pytest.raises(ValueError, match=r"output_norm.weight has values that are not finite"):
        export_gguf(model, tmp_path / "m.gguf", kind="f32")
    for options, message in {
        ("kind", "q5"): "type='q5' is not known; use one of",
        ("fallback", "f16"): "fallback=f16 has no effect on the type f16",
    }.items():
        with pytest.raises(ValueError, match=message):
            export_gguf(model, tmp_path / "m.gguf", **dict([options]))
    assert not list(tmp_path.iterdir())


def test_without_a_tokenizer_a_model_runs_on_token_ids(tmp_path):
    pytest.importorskip("xllamacpp")
    model = make_model()
    export_gguf(model, tmp_path / "m.gguf")
    assert import_gguf(tmp_path / "m.gguf")[1] == {}
    with LlamaCpp(tmp_path / "m.gguf") as theirs:
        assert len(theirs.run([3, 4, 5], 6).tokens) == 6
    with pytest.raises(ValueError, match="the engine is closed"):
        theirs.prefill([1])


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "m.gguf"
    (tmp_path / f"m.gguf.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"cannot write .*m.gguf .*; free some space or choose ano"):
        export_gguf(make_model(), path)
    assert not list(tmp_path.iterdir())
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"m.gguf takes 163 kB, 1 kB are free"):
        export_gguf(make_model(), path)
    assert not list(tmp_path.iterdir())
    path.touch()
    with pytest.raises(ValueError, match=r"m.gguf exists and is never overwritten; give a new"):
        export_gguf(make_model(), path)


def test_packages_that_are_missing_are_named(tmp_path, monkeypatch):
    model = make_model()
    export_gguf(model, tmp_path / "m.gguf")
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ValueError, match=r"needs the package xllamacpp, .* 'mobilellm\[llamacpp\]"):
        LlamaCpp(tmp_path / "m.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"writing .*x.gguf needs the package gguf, which is not"):
        export_gguf(model, tmp_path / "x.gguf")
