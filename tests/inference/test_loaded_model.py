"""Models are loaded with their tokenizer, and continue text."""

import json

import pytest
import torch
from tiny_tokenizers import T5, make_constant_model, make_tokenizer

from mobilellm.checkpoint import save_model
from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.formats.huggingface import export_huggingface
from mobilellm.inference.loaded_model import load
from mobilellm.inference.text_generation import continue_text
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.generation import generate


def test_a_run_is_loaded_with_its_tokenizer(saved_run):
    loaded = load(saved_run)
    text = loaded.generate("the quick", 12)
    prompt = torch.tensor([[1, *loaded.tokenizer.encode("the quick")]])
    tokens = generate(loaded.model, prompt, 12)[0].tolist()
    assert text == loaded.tokenizer.decode(tokens)
    assert text.startswith("the quick")
    assert not loaded.model.training
    assert loaded.config == loaded.model.config
    assert repr(loaded) == f"LoadedModel('{saved_run}': 2 layers of width 16, 5,456 parameters)"


def test_a_model_folder_and_its_hugging_face_export_say_the_same(saved_run, tmp_path):
    own = load(saved_run / "model")
    export_huggingface(own.model, tmp_path / "hf", saved_run / "model/tokenizer.model")
    settings = {"temperature": 1.5, "top_k": 20, "top_p": 0.9, "seed": 0}
    assert load(tmp_path / "hf").generate("the", 40, **settings) == own.generate(
        "the", 40, **settings
    )


def test_sampling_follows_its_seed(saved_run):
    loaded = load(saved_run)
    first, again, other = (loaded.generate("the", 30, temperature=2.0, seed=s) for s in (0, 0, 1))
    assert first == again != other


def test_without_a_tokenizer_tokens_only(saved_run, tmp_path):
    save_model(load(saved_run).model, tmp_path / "bare")
    loaded = load(tmp_path / "bare")
    assert loaded.tokenizer is None
    with pytest.raises(FileNotFoundError, match=r"bare contains no tokenizer.model or tok"):
        loaded.generate("the")
    given = load(tmp_path / "bare", tokenizer=saved_run / "model/tokenizer.model")
    assert given.generate("the", 5) == load(saved_run).generate("the", 5)


def test_a_tokenizer_of_more_tokens_than_the_embedding_has_rows(saved_run, tmp_path):
    config = ModelConfig(
        vocab_size=10, hidden_size=8, intermediate_size=8, num_blocks=1, num_attention_heads=1
    )
    save_model(MobileLLM(config), tmp_path / "small")
    with pytest.raises(ValueError, match="has 64 tokens, more than the model's vocab_size=10; use"):
        load(tmp_path / "small", tokenizer=saved_run / "model/tokenizer.model")


def test_text_ends_at_the_end_of_text_token_of_the_tokenizer(tmp_path, caplog):
    """A T5-type tokenizer, and a model saved with the ids of another kind."""
    tokenizer = make_tokenizer(tmp_path / "t5", **T5)
    save_model(make_constant_model(1, eos_token_id=2, bos_token_id=2), tmp_path / "m", tokenizer)
    saved = json.loads((tmp_path / "m/config.json").read_text(encoding="utf-8"))
    assert saved["eos_token_id"] == 2
    loaded = load(tmp_path / "m")
    assert loaded.generate("the fox", 12) == "the fox"
    assert (
        "eos_token_id=2 and bos_token_id=2" in caplog.text
        and "tokenizer has 1 and 1" in caplog.text
    )
    assert loaded.config.eos_token_id == 2


def test_rows_of_a_padded_embedding_stand_for_no_text(tmp_path):
    tokenizer = open_tokenizer(make_tokenizer(tmp_path / "words"))
    model = make_constant_model(70, vocab_size=72)
    assert continue_text(model, tokenizer, "the fox", 5) == "the fox"


def test_a_prompt_that_is_not_utf8(saved_run):
    with pytest.raises(ValueError, match=r"not UTF-8 text \('\\udcff' at character 1\)"):
        load(saved_run).generate(b"a\xff".decode(errors="surrogateescape"))
