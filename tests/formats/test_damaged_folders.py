"""Folders with faults of real downloads: each is refused in a line that names file and field."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from mobilellm.checkpoint import load_model, save_model
from mobilellm.formats.huggingface import export_huggingface, import_huggingface
from mobilellm.formats.model_folder import open_config, open_model
from mobilellm.models import MobileLLM, ModelConfig

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 134217728\n"


def make_model(**changes):
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_blocks": 2,
             "num_attention_heads": 6, "num_key_value_heads": 2}  # fmt: skip
    return MobileLLM(ModelConfig(**(sizes | changes)))


def their_state(model, folder):
    """The weights under Hugging Face's names."""
    from safetensors.torch import load_file

    export_huggingface(model, folder / "exported")
    return load_file(folder / "exported" / "model.safetensors")


def write_folder(folder, state, **changes):
    """A Hugging Face folder with pytorch_model.bin."""
    folder.mkdir()
    values = (
        json.loads((folder.parent / "exported" / "config.json").read_text(encoding="utf-8"))
        | changes
    )
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    torch.save(state, folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def llama(tmp_path):
    model = make_model()
    return write_folder(tmp_path / "llama", their_state(model, tmp_path))


def test_weights_that_cannot_be_read(llama):
    path = llama / "pytorch_model.bin"
    whole = path.read_bytes()
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    old = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:10], old[: len(old) // 2], old[:80], b"text"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"pytorch_model.bin is damaged: .*; fetch it again$"):
            import_huggingface(llama)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"pytorch_model.bin is empty; fetch it again$"):
        import_huggingface(llama)
    path.write_bytes(POINTER)
    with pytest.raises(ValueError, match=r"bin is a Git LFS pointer .* with `git lfs pull`$"):
        import_huggingface(llama)
    path.write_bytes(pickle.dumps(Path("x"), protocol=2))
    with pytest.raises(ValueError, match="contains objects other than tensors and can"):
        import_huggingface(llama)
    for other in ([torch.zeros(2)], {"model": {"w": torch.zeros(2)}}):
        torch.save(other, path)
        with pytest.raises(ValueError, match=r"bin does not contain named weights; save mod"):
            import_huggingface(llama)


def test_safetensors_that_were_not_fetched(tmp_path):
    save_model(make_model(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(ValueError, match=r"model.safetensors is a Git LFS pointer"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"model.safetensors is empty; fetch it again"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"metadata": {}}', "has no weight_map"),
        ('{"weight_map": []}', "has no weight_map"),
        ('{"weight_map": {}}', "has no weight_map"),
        ('{"weight_map": {"a": 3}}', "has no weight_map"),
        ("[", "is not valid JSON"),
    ],
)
def test_an_index_without_names(llama, content, message):
    (llama / "pytorch_model.bin").unlink()
    (llama / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"model.safetensors.index.json {message}"):
        import_huggingface(llama)


def test_an_index_that_names_a_missing_file(llama):
    (llama / "pytorch_model.bin").unlink()
    index = llama / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"a": "pytorch_model-1.bin"}}', encoding="utf-8")
    with pytest.raises(
        FileNotFoundError, match=r"pytorch_model-1.bin is missing in .*llama, although .*; fetch"
    ):
        import_huggingface(llama)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": "linear"}, "rope_scaling='linear' must be null or an object such as"),
        ({"rope_parameters": [1]}, r"rope_parameters=\[1\] must be null or an object such as"),
        ({"rms_norm_eps": None}, "rms_norm_eps=None must be a positive number, e.g. 1e-06"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps='1e-5' must be a positive number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan must be a positive number"),
        ({"rope_parameters": None, "rope_theta": "1e4"}, "rope_theta='1e4' must be a positive"),
        ({"vocab_size": "61"}, "vocab_size='61' must be a whole number of at least 1"),
        ({"num_hidden_layers": None}, "num_hidden_layers=None must be a whole number of at least"),
        ({"num_key_value_heads": 2.0}, "num_key_value_heads=2.0 must be a whole number"),
        ({"max_position_embeddings": None}, "max_position_embeddings=None must be a whole number"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings='false' must be true or false"),
        ({"eos_token_id": "2"}, "eos_token_id='2' must be a whole number of at least 0"),
        ({"bos_token_id": [1.5]}, "bos_token_id=1.5 must be a whole number of at least 0"),
        ({"model_type": ["llama"]}, r"model_type=\['llama'\] cannot be represented"),
    ],
)
def test_a_value_without_meaning_is_named_with_its_file(llama, changes, message):
    path = llama / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8"
    )
    for read in (import_huggingface, open_config):
        with pytest.raises(ValueError, match=rf"llama/config.json: {message}"):
            read(llama)


def test_a_byte_order_mark_is_no_part_of_a_config(llama, tmp_path):
    for folder in (llama, tmp_path / "ours"):
        if folder != llama:
            save_model(make_model(), folder)
        config = open_config(folder)
        path = folder / "config.json"
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert open_config(folder) == config
        assert open_model(folder)[0].config == config


@pytest.mark.parametrize(
    ("stored", "changes"),
    [
        # Meta's own: the one table stands under the head's name.
        ("lm_head.weight", {"model_type": "mobilellm", "share_embedding": True,
                            "tie_word_embeddings": False}),
        ("lm_head.weight", {"model_type": "mobilellm", "tie_word_embeddings": True}),
        ("lm_head.weight", {"tie_word_embeddings": True}),
        ("model.embed_tokens.weight", {"share_embedding": True, "tie_word_embeddings": False}),
        ("model.embed_tokens.weight", {"share_embedding": True, "tie_word_embeddings": None}),
        ("lm_head.weight", {"share_embedding": True, "tie_word_embeddings": False}),
    ],
)  # fmt: skip
def test_a_tied_table_comes_in_under_either_name(tmp_path, stored, changes):
    model = make_model()
    state = their_state(model, tmp_path)
    table = state.pop("model.embed_tokens.weight")
    folder = write_folder(tmp_path / "tied", {**state, stored: table}, **changes)
    ours = import_huggingface(folder)
    assert ours.head is None
    ids = torch.arange(20).reshape(2, 10)
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, model(ids).logits)


def test_transformers_reads_the_tied_form_alike(tmp_path):
    transformers = pytest.importorskip("transformers")
    state = their_state(make_model(), tmp_path)
    state["lm_head.weight"] = state.pop("model.embed_tokens.weight")
    folder = write_folder(tmp_path / "tied", state, tie_word_embeddings=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(20).reshape(2, 10)
    with torch.no_grad():
        ours = import_huggingface(folder)(ids).logits
        assert (ours - theirs(ids).logits).abs().max() < 1e-5


def test_a_missing_or_another_head_is_refused_with_the_remedy(tmp_path):
    state = their_state(make_model(), tmp_path)
    untied = write_folder(tmp_path / "untied", state, tie_word_embeddings=False)
    with pytest.raises(ValueError, match=r"lm_head.weight is missing in .*untied; if the head "
                       "equals the embedding, set tie_word_embeddings to true"):  # fmt: skip
        import_huggingface(untied)
    state["lm_head.weight"] = state["model.embed_tokens.weight"] + 1
    other = write_folder(tmp_path / "other", state, share_embedding=True)
    with pytest.raises(ValueError, match=r"differs from the embedding .* share_embedding\) to fal"):
        import_huggingface(other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_open_in_float32_unless_they_are_to_stay(tmp_path, dtype):
    model = make_model().to(dtype)
    save_model(model, tmp_path / "ours")
    export_huggingface(model, tmp_path / "theirs")
    for folder in (tmp_path / "ours", tmp_path / "theirs"):
        opened = open_model(folder)[0]
        for name, weight in opened.state_dict().items():
            assert weight.dtype == torch.float32, name
            assert torch.equal(weight, model.state_dict()[name].float())
        assert {w.dtype for w in open_model(folder, as_stored=True)[0].parameters()} == {dtype}
