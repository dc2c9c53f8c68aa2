import pytest
from tiny_tokenizers import make_byte_level, make_tokenizer

from mobilellm.data.tokenizers import open_tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + eos_token + '\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TALK = [
    {"role": "system", "content": 'Be brief. <&> "é"'},
    {"role": "user", "content": "Who are you?"},
    {"role": "assistant", "content": "A fox."},
]
TEMPLATES = {
    "chatml": CHATML,
    "trimmed blocks": "{% for m in messages %}\n    {% if m.role == 'user' %}\n{{ m.content }}\n"
    "    {% endif %}\n{% endfor %}\n",
    "break and continue": "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}"
    "{{ m.content }}{% break %}{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% endfor %}",
    "tojson": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}",
    "special tokens": "{{ bos_token }}{{ messages[0].content | trim }}{{ pad_token }}",
    "no tools": "{% if tools is not none %}tools{% endif %}{{ messages | length }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", [True, False])
def test_text_is_that_of_transformers(name, prompt, tmp_path):
    transformers = pytest.importorskip("transformers")
    path = make_byte_level(tmp_path, template=TEMPLATES[name])
    tokenizer = open_tokenizer(path)
    text = tokenizer.apply_chat_template(TALK, add_generation_prompt=prompt)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = reference.apply_chat_template(TALK, add_generation_prompt=prompt, tokenize=False)
    assert text == expected
    tokens = reference.apply_chat_template(TALK, add_generation_prompt=prompt)["input_ids"]
    assert tokenizer.encode_rendered(text) == tokens


def test_special_tokens_are_recognised_in_text_of_a_sentencepiece_model(tmp_path):
    """The begin-of-text token is in the template, and must not be added to it."""
    template = "{{ bos_token }}[INST] {{ messages[0].content }} [/INST]"
    path = make_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
    tokenizer = open_tokenizer(path)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "the fox"}])
    assert text == "<s>[INST] the fox [/INST]"
    assert tokenizer.encode_rendered(text) == [
        tokenizer.bos_id, *tokenizer.encode("[INST] the fox [/INST]")
    ]  # fmt: skip
    assert tokenizer.encode_rendered(text).count(tokenizer.bos_id) == 1


def test_templates_in_older_files(tmp_path):
    settings = {"eos_token": "<|im_end|>", "chat_template": CHATML}
    expected = open_tokenizer(
        make_byte_level(tmp_path / "new", template=CHATML)
    ).apply_chat_template(TALK)
    for number, template in enumerate(
        (CHATML, [{"name": "tools", "template": ""}, {"name": "default", "template": CHATML}])
    ):
        path = make_byte_level(
            tmp_path / str(number), settings=settings | {"chat_template": template}
        )
        assert open_tokenizer(path).apply_chat_template(TALK) == expected


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", r"conversation \(roles must alternate\)"),
        ("{% if %}", r"cannot write this conversation \(Expected an expression"),
        ("{{ messages[9].content.text }}", r"conversation \(list object has no element 9"),
        ("{{ messages.append(1) }}", r"conversation \(.*SecurityError|unsafe|not safely callable"),
        ("{{ ''.__class__.__mro__ }}", r"conversation \(access to attribute '__class__'"),
    ],
)
def test_templates_that_fail(template, message, tmp_path):
    tokenizer = open_tokenizer(make_byte_level(tmp_path, template=template))
    with pytest.raises(ValueError, match=message):
        tokenizer.apply_chat_template(TALK)


def test_without_a_template(tmp_path):
    tokenizer = open_tokenizer(make_byte_level(tmp_path))
    with pytest.raises(ValueError, match=r"has no chat template \(chat_template.jinja, or chat"):
        tokenizer.apply_chat_template(TALK)
