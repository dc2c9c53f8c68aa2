"""The tokens that end an answer, of the model, its files and its chat template."""

import json

import pytest
from chat_models import CHATML, chat_config, chat_tokenizer
from tiny_tokenizers import make_tokenizer

from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.inference.end_tokens import end_tokens

BY_TEMPLATE = {
    CHATML: [2],
    # The end of a turn is not that of the text.
    CHATML.replace("<|im_end|>", "<|endoftext|>"): [0],
    # Nothing, text, and a token that begins the next turn.
    "{% for m in messages %}{{ m.content }}{% endfor %}": [],
    "{% for m in messages %}{{ m.content }} END {% endfor %}": [],
    # Llama 2 refuses what does not begin with the user; others refuse everything.
    "{{ raise_exception('no') }}": [],
    None: [],
}


@pytest.mark.parametrize(("template", "expected"), BY_TEMPLATE.items())
def test_the_token_that_a_template_writes_after_an_answer(template, expected, tmp_path):
    tokenizer = chat_tokenizer(tmp_path, template)
    assert end_tokens(chat_config(eos_token_id=7), tokenizer) == (7, *expected)


@pytest.mark.parametrize(
    ("given", "expected"), [(0, [0]), ([2, 0], [2, 0]), (None, []), ([5, 400, -1, "x", True], [5])]
)
def test_those_of_generation_config(given, expected, tmp_path):
    tokenizer = chat_tokenizer(tmp_path, template=None)
    text = json.dumps({"eos_token_id": given})
    (tmp_path / "generation_config.json").write_text(text, encoding="utf-8")
    assert end_tokens(chat_config(eos_token_id=2), tokenizer) == tuple(
        dict.fromkeys([2, *expected])
    )


def test_of_a_sentencepiece_model(tmp_path):
    """As Llama 2 writes answers."""
    template = (
        "{% for m in messages %}{{ ' ' + m.content + ' ' + eos_token if m.role == 'assistant' "
        "else bos_token + '[INST] ' + m.content + ' [/INST]' }}{% endfor %}"
    )
    path = make_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
    tokenizer = open_tokenizer(path)
    assert end_tokens(chat_config(eos_token_id=9), tokenizer) == (9, tokenizer.eos_id)
