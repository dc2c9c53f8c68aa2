import errno
import json
import os
import stat

import pytest
import torch
from tiny_tokenizers import make_byte_level, make_tokenizer

from mobilellm.checkpoint import load_model, save_model
from mobilellm.models import MobileLLM, ModelConfig


def make_model(**changes):
    sizes = dict(
        vocab_size=40, hidden_size=24, intermediate_size=[40, 16], num_blocks=2,
        num_attention_heads=6, num_key_value_heads=2, block_repeats=2, qk_norm="rms",
    )  # fmt: skip
    return MobileLLM(ModelConfig(**(sizes | changes)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_a_loaded_model_is_the_saved_one(tmp_path, tied, dtype):
    model = make_model(tie_word_embeddings=tied).to(dtype)
    save_model(model, tmp_path / "new" / "model", b"a tokenizer")
    loaded = load_model(tmp_path / "new" / "model")
    assert loaded.config == model.config
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    ids = torch.arange(12).view(2, 6)
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert (tmp_path / "new" / "model" / "tokenizer.model").read_bytes() == b"a tokenizer"
    names = ["config.json", "model.safetensors", "tokenizer.model"]
    assert sorted(os.listdir(tmp_path / "new" / "model")) == names


def test_each_weight_is_stored_once(tmp_path):
    model = make_model()
    save_model(model, tmp_path)
    stored = sum(parameter.numel() for parameter in model.parameters())
    size = (tmp_path / "model.safetensors").stat().st_size
    assert stored * 4 < size < stored * 4 + 8000


def test_a_loaded_model_can_be_saved_over_itself(tmp_path):
    save_model(make_model(), tmp_path)
    loaded = load_model(tmp_path)
    wanted = loaded.embedding.weight.clone()
    with torch.no_grad():
        loaded.norm.weight.mul_(2)
    save_model(loaded, tmp_path)
    assert torch.equal(loaded.embedding.weight, wanted)
    assert load_model(tmp_path).norm.weight.eq(2).all()


def test_the_tokenizer_may_be_a_path(tmp_path):
    path = make_tokenizer(tmp_path / "words")
    save_model(make_model(), tmp_path / "out", path)
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == path.read_bytes()
    with pytest.raises(FileNotFoundError, match=r"none.model is missing in"):
        save_model(make_model(), tmp_path / "out2", tmp_path / "none.model")
    assert not (tmp_path / "out2").exists()


def test_a_tokenizer_replaces_one_of_the_other_kind(tmp_path):
    path = make_byte_level(tmp_path / "bytes", template="{{ messages }}")
    save_model(make_model(), tmp_path / "out", make_tokenizer(tmp_path / "words"))
    save_model(make_model(), tmp_path / "out", path)
    assert sorted(os.listdir(tmp_path / "out")) == [
        "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == (path.parent / name).read_bytes()
    (tmp_path / "bytes" / "bad.model").write_bytes(b"words")
    with pytest.raises(ValueError, match=r"tokenizer .*bad.model is not a SentencePiece model"):
        save_model(make_model(), tmp_path / "out2", tmp_path / "bytes" / "bad.model")
    assert not (tmp_path / "out2").exists()


def test_files_can_be_read_by_whom_the_umask_allows(tmp_path):
    before = os.umask(0o022)
    try:
        save_model(make_model(), tmp_path)
    finally:
        os.umask(before)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
    model = make_model()
    save_model(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match=r"cannot write .*model.safetensors .*No space left.*; free"):
        save_model(make_model(hidden_size=48), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8"
    )


def test_broken_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder .*none does not exist; give the folder"):
        load_model(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"config.json is missing in"):
        load_model(tmp_path)
    save_model(make_model(), tmp_path)
    change_config(tmp_path, hidden_sizes=3)
    with pytest.raises(ValueError, match=r"config.json: model field='hidden_sizes' is not known; "):
        load_model(tmp_path)
    save_model(make_model(), tmp_path)
    change_config(tmp_path, format=None)
    with pytest.raises(ValueError, match="does not have format='mobilellm/1'; convert a Hug"):
        load_model(tmp_path)
    save_model(make_model(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"1234567890")
    with pytest.raises(ValueError, match=r"model.safetensors is damaged .*; save or fetch it ag"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model.safetensors is missing in"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"config.json is not valid JSON"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"config.json does not contain a JSON object"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"vocab_size": 41},
            r"embedding.weight in .* has shape \(40, 24\), .* shape \(41, 24\)",
        ),
        ({"tie_word_embeddings": False}, r"head.weight .* is missing, but config.json requires it"),
        ({"qk_norm": "none"}, r"_norm.weight .* is unknown: config.json describes a model without"),
    ],
)
def test_weights_of_another_shape_are_refused(tmp_path, changes, message):
    save_model(make_model(), tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path)


def test_loading_draws_no_random_numbers(tmp_path):
    save_model(make_model(), tmp_path)
    before = torch.get_rng_state()
    load_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
