import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf_writing import BLOCK, pairs_from_halves, write_gguf
from test_model_commands import run_script  # noqa: F401 - a fixture
from tiny_tokenizers import make_byte_level, make_tokenizer

from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.formats.gguf.config import llama3_divisors
from mobilellm.formats.huggingface import export_huggingface
from mobilellm.formats.model_folder import open_model
from mobilellm.inference.loaded_model import load
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.rotary_scaling import RotaryScaling

gguf = pytest.importorskip("gguf")
TEXT = "the quick brown fox, it's 12345 and  ▁ 日本 é\n\tx "


def make_model(**changes):
    torch.manual_seed(0)
    sizes = dict(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_blocks=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, rope_theta=3e4,
        rms_norm_eps=float(np.float32(1e-4)),  # as the file has it
    )  # fmt: skip
    return MobileLLM(ModelConfig(**(sizes | changes)))


@pytest.mark.parametrize("tied", [True, False])
def test_a_file_comes_in_with_equal_logits(tied, tmp_path):
    from mobilellm.formats.gguf import import_gguf

    model = make_model(tie_word_embeddings=tied)
    ours, files = import_gguf(write_gguf(tmp_path / "m.gguf", model))
    assert files == {}
    assert ours.config == model.config
    ids = torch.arange(40).view(2, 20)
    assert torch.equal(ours(ids).logits, model(ids).logits)


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_weights_are_those_that_the_package_dequantizes(name, tmp_path):
    from mobilellm.formats.gguf import import_gguf

    path = write_gguf(tmp_path / "m.gguf", make_model(), quantization=name)
    ours, _ = import_gguf(path)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for index in range(2):
        for part, own in BLOCK.items():
            tensor = found[f"blk.{index}.{part}.weight"]
            expected = torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type)))
            weight = ours.get_submodule(f"blocks.{index}.{own}").weight
            if part in ("attn_q", "attn_k"):
                weight = pairs_from_halves(weight, weight.shape[0] // 16)
            assert torch.equal(weight, expected)
            assert weight.dtype == torch.float32


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece", "llama-like"])
def test_the_tokenizer_comes_in(kind, tmp_path, run_script):  # noqa: F811
    if kind == "byte_level":
        given = make_byte_level(tmp_path / "t", text=TEXT * 9)
    else:
        options = {"byte_fallback": True, "normalization_rule_name": "identity",
                   "remove_extra_whitespaces": False}  # fmt: skip
        given = make_tokenizer(tmp_path / "t", vocab_size=300, **options)
    path = write_gguf(tmp_path / "m.gguf", make_model(), given)
    code, printed, errors = run_script("import", path, "--out", tmp_path / "out")
    assert (code, printed, errors) == (0, f"{tmp_path}/out: 80,960 parameters\n", "")
    model, found = open_model(tmp_path / "out")
    ours, theirs = open_tokenizer(found), open_tokenizer(given)
    assert ours.encode(TEXT) == theirs.encode(TEXT)
    assert ours.decode(ours.encode(TEXT)) == theirs.decode(theirs.encode(TEXT))
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_id, theirs.eos_id)
    assert (model.config.bos_token_id, model.config.eos_token_id) == (theirs.bos_id, theirs.eos_id)
    assert ours.adds_bos == (kind != "byte_level")
    assert load(tmp_path / "out").generate("the", 3).startswith("the")
    if kind == "byte_level":
        message = [{"role": "user", "content": "hi"}]
        assert ours.apply_chat_template(message) == "hi"
    export_huggingface(model, tmp_path / "hf", found)
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert reference.encode("the fox", add_special_tokens=False) == ours.encode("the fox")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("smollm", "it's 123 don't", ["it", "'s", " ", "1", "2", "3", " don", "'t"]),
        ("llama-bpe", "it'S 12345\n\n x", ["it", "'S", " ", "123", "45", "\n\n", " x"]),
        ("qwen2", "ab 123!\n", ["ab", " ", "1", "2", "3", "!\n"]),
        ("gpt-2", "ab 123\n\n x", ["ab", " 123", "\n\n", " x"]),
    ],
)
def test_text_is_split_as_by_the_published_tokenizers(name, text, words):
    from mobilellm.formats.gguf.splitting import splitter

    class File:
        path = Path("m.gguf")

        @staticmethod
        def get(_, default=None):
            return name

    split = splitter(File())[0].pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in split] == words


def test_scaling_of_llama_3_comes_in(tmp_path):
    from mobilellm.formats.gguf import import_gguf

    scaling = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    model = make_model(rope_scaling=scaling, rope_theta=5e5)
    divisors = llama3_divisors(RotaryScaling(**scaling), 16, 5e5).astype(np.float32)
    path = write_gguf(tmp_path / "m.gguf", model, tensors=[("rope_freqs.weight", divisors)])
    ours, _ = import_gguf(path)
    assert ours.config == model.config
    ids = torch.arange(40).view(2, 20)
    assert torch.equal(ours(ids).logits, model(ids).logits)
    other = [("rope_freqs.weight", np.linspace(1, 5, 8, dtype=np.float32))]
    with pytest.raises(ValueError, match=r"rope_freqs.weight is not the scaling of Llama 3.1 \(ll"):
        import_gguf(write_gguf(tmp_path / "other.gguf", model, tensors=other))


@pytest.mark.parametrize(
    ("fields", "tensors", "message"),
    [
        ([("add_expert_count", 4)], [], "llama.expert_count=4 cannot be represented by this model"),
        ([("add_rope_dimension_count", 8)], [], "llama.rope.dimension_count=8 cannot be represent"),
        ([("add_tokenizer_model", "bert")], [], "tokenizer.ggml.model=bert is not supported; only"),
        (
            [],
            [("blk.0.attn_q.bias", np.zeros(64, np.float32))],
            "the tensor blk.0.attn_q.bias is a",
        ),
        (
            [],
            [("blk.0.extra.weight", np.zeros(4, np.float32))],
            "blk.0.extra.weight in .* is unk",
        ),
    ],
)
def test_what_cannot_be_represented_is_named(fields, tensors, message, tmp_path):
    from mobilellm.formats.gguf import import_gguf

    path = write_gguf(tmp_path / "m.gguf", make_model(), fields=fields, tensors=tensors)
    with pytest.raises(ValueError, match=message):
        import_gguf(path)


def test_files_that_are_no_models(tmp_path, run_script):  # noqa: F811
    whole = write_gguf(
        tmp_path / "m.gguf", make_model(), make_byte_level(tmp_path / "t")
    ).read_bytes()
    writer = gguf.GGUFWriter(tmp_path / "qwen.gguf", "qwen2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tmp_path / "cut.gguf").write_bytes(whole[:-5000])
    (tmp_path / "short.gguf").write_bytes(whole[:900])
    (tmp_path / "text.gguf").write_bytes(b"some text")
    for name, message in {
        "qwen.gguf": "has the architecture 'qwen2'; only 'llama', 'deci', 'qwen3' can be imp",
        "cut.gguf": "is damaged or truncated (",
        "short.gguf": "is damaged or truncated (",
        "text.gguf": "is not a GGUF file; give one, or a folder",
        "none.gguf": "",
    }.items():
        code, _, errors = run_script("import", tmp_path / name, "--out", tmp_path / "out")
        assert (code, errors.count("\n")) == (2, 1)
        assert message in errors
        assert not (tmp_path / "out").exists()
    code, _, errors = run_script("generate", tmp_path / "cut.gguf")
    assert (code, errors.count("\n")) == (2, 1)
    assert "cut.gguf is a file; convert it with " in errors
    assert errors.endswith("cut.gguf --out MODEL_DIR\n")


def test_an_unknown_way_of_splitting_is_refused(tmp_path):
    from mobilellm.formats.gguf import import_gguf

    path = make_byte_level(tmp_path / "t")
    fields = [("add_tokenizer_pre", "unheard-of")]
    with pytest.raises(ValueError, match=r"tokenizer.ggml.pre=unheard-of is not known, so that t"):
        import_gguf(write_gguf(tmp_path / "m.gguf", make_model(), path, fields=fields))


def test_without_the_package(tmp_path, run_script, monkeypatch):  # noqa: F811
    path = write_gguf(tmp_path / "m.gguf", make_model())
    monkeypatch.setitem(sys.modules, "gguf", None)
    code, _, errors = run_script("import", path, "--out", tmp_path / "out")
    assert (code, errors.count("\n")) == (2, 1)
    assert "needs the package gguf, which is not installed; install it with pip install" in errors
