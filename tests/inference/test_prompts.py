"""A prompt begins as the texts of the model's training, and never twice."""

import json

import pytest
from tiny_tokenizers import make_byte_level, make_constant_model, make_tokenizer

from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.inference.prompts import tokens_of_chat, tokens_of_text
from mobilellm.inference.text_generation import answer, continue_text

NAMES = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
CHAT = [{"role": "user", "content": "the fox"}]


def byte_level(folder, template=None, **settings):
    return open_tokenizer(make_byte_level(folder, settings=NAMES | settings, template=template))


def model_of(tokenizer, token=5, **ids):
    size = tokenizer.vocab_size
    return make_constant_model(
        token, vocab_size=size, **{"bos_token_id": 1, "eos_token_id": 2, **ids}
    )


@pytest.mark.parametrize(
    ("adds_bos", "text", "begins"),
    [
        (True, "the fox", True),
        (False, "the fox", False),
        (False, "", True),  # something must come first
        (True, "", True),
        (True, "<|im_start|>the fox", False),  # it is there already
    ],
)
def test_the_begin_of_a_prompt(adds_bos, text, begins, tmp_path):
    tokenizer = byte_level(tmp_path, add_bos_token=adds_bos)
    config = model_of(tokenizer).config
    expected = [1] * begins + tokenizer.encode(text)
    assert tokens_of_text(config, tokenizer, text) == expected
    assert expected.count(1) <= 1


def test_a_tokenizer_without_settings_begins_as_the_model_does(tmp_path):
    """As in all models that were trained here with SentencePiece."""
    tokenizer = open_tokenizer(make_tokenizer(tmp_path / "words"))
    config = model_of(tokenizer, bos_token_id=2).config
    assert tokens_of_text(config, tokenizer, "the") == [2, *tokenizer.encode("the")]


def test_a_chat_begins_once(tmp_path):
    template = "{{ bos_token }}{{ messages[0].content }}"
    tokenizer = byte_level(tmp_path, template, add_bos_token=True)
    assert tokens_of_chat(tokenizer, CHAT) == [1, *tokenizer.encode("the fox")]


def test_an_answer_is_only_what_was_added(tmp_path):
    tokenizer = byte_level(tmp_path, "{{ messages[0].content }}")
    token = tokenizer.encode("x")[0]
    model = model_of(tokenizer, token)
    assert answer(model, tokenizer, CHAT, 3) == "xxx"
    assert answer(model_of(tokenizer, 2), tokenizer, CHAT, 3) == ""
    assert continue_text(model, tokenizer, "the fox", 3) == "the foxxxx"


def test_a_chat_that_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match=r"has no chat template"):
        tokens_of_chat(byte_level(tmp_path), CHAT)
    with pytest.raises(ValueError, match=r"the prompt is not UTF-8 text"):
        tokens_of_chat(byte_level(tmp_path), [{"role": "user", "content": "a\udcff"}])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chat"], "--chat needs a message to answer; give --prompt TEXT"),
        (["--system", "x"], "--system has no effect without --chat; give both, or leave it out"),
        (["--chat", "--prompt", "hi"], "has no chat template (chat_template.jinja, or chat_temp"),
        (["--chat", "--prompt", "the " * 90], "together exceed max_position_embeddings=64; use"),
    ],
)
def test_the_command(arguments, message, tmp_path, capsys):
    from mobilellm.checkpoint import save_model
    from mobilellm.commands.generate import main

    long = message.startswith("together")
    template = "{{ messages[0].content }}" if long else None
    path = make_byte_level(tmp_path / "t", template=template)
    model = model_of(open_tokenizer(path), max_position_embeddings=64)
    save_model(model, tmp_path / "m", path)
    settings = json.loads((tmp_path / "m/config.json").read_text(encoding="utf-8"))
    assert settings["eos_token_id"] == 2
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "m"), *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
