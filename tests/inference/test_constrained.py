"""Whatever the logits are, a constrained text is a JSON value that its schema allows."""

import json

import jsonschema
import pytest
import torch
from chat_models import chat_config, random_model
from tiny_tokenizers import make_byte_level, make_tokenizer

from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.inference.constrained import check_installed, constrained
from mobilellm.inference.functions import calls_schema, make_functions
from mobilellm.inference.token_stream import TokenStream
from mobilellm.models.generation import choose_tokens

pytest.importorskip("llguidance")
FUNCTIONS = make_functions(
    [
        {
            "name": "get_weather",
            "parameters": {
                "properties": {
                    "city": {"type": "string", "maxLength": 8},
                    "unit": {"enum": ["°C", "°F"]},
                },
                "required": ["city"],
            },
        },
        {
            "name": "add",
            "description": "The sum.",
            "parameters": {
                "properties": {
                    "numbers": {
                        "type": "array", "minItems": 1, "maxItems": 3,
                        "items": {"type": "integer", "minimum": -50, "maximum": 50},
                    }
                },
                "required": ["numbers"],
            },
        },
        {"name": "now"},
    ]
)  # fmt: skip
SCHEMAS = {
    "calls": calls_schema(FUNCTIONS),
    "one call": calls_schema(FUNCTIONS[2:]),
    "choice": {"enum": ["yes", "no", None, 3]},
    "nested": {
        "type": "object",
        "properties": {
            "flag": {"type": "boolean"},
            "rows": {
                "type": "array",
                "maxItems": 2,
                "items": {
                    "type": "object",
                    "properties": {"x": {"type": "number", "minimum": 0, "maximum": 1}},
                    "required": ["x"],
                    "additionalProperties": False,
                },
            },
        },
        "required": ["flag", "rows"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module", params=["SentencePiece", "byte-level"])
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    if request.param == "byte-level":
        return open_tokenizer(make_byte_level(folder))
    return open_tokenizer(make_tokenizer(folder, vocab_size=300, byte_fallback=True))


@pytest.mark.parametrize("name", SCHEMAS)
def test_random_logits_give_valid_json(name, tokenizer):
    schema, generator, texts = SCHEMAS[name], torch.Generator().manual_seed(0), set()
    for _ in range(12):
        # Rows beyond the tokenizer's, as in a padded embedding, are never chosen.
        constraint, tokens = constrained(tokenizer, schema), []
        while True:
            logits = 3 * torch.randn(tokenizer.vocab_size + 20, generator=generator)
            allowed = constraint.allowed(len(logits))
            assert torch.equal(constraint.mask(logits).isfinite(), allowed)
            token = int(
                choose_tokens(logits[None], 1.0, generator=generator, allowed=allowed[None])
            )
            assert allowed[token]
            constraint.advance(token)
            if token == tokenizer.eos_id:
                break
            tokens.append(token)
            assert len(tokens) < 2000
        text = tokenizer.decode(tokens)
        value = json.loads(text)
        jsonschema.validate(value, schema)
        texts.add(text)
        assert constraint.is_complete
    assert len(texts) > 1 or name == "one call"


def test_text_that_the_schema_allows_can_be_written(tokenizer):
    """Token by token as the tokenizer writes it, with characters of several tokens."""
    call = {"name": "get_weather", "arguments": {"city": "Köln 日", "unit": "°C"}}
    text = json.dumps(call, ensure_ascii=False)
    # SentencePiece puts a space before a text, which JSON does not begin with.
    tokens = tokenizer.encode(text)
    if tokenizer.adds_space:
        tokens = tokenizer.encode("a" + text)
        tokens = tokens[next(i for i in range(9) if tokenizer.decode(tokens[i:]) == text) :]
    constraint = constrained(tokenizer, SCHEMAS["calls"])
    for token in tokens:
        assert constraint.allowed(tokenizer.vocab_size)[token]
        assert not constraint.is_complete
        assert not constraint.allowed(tokenizer.vocab_size)[tokenizer.eos_id]
        constraint.advance(token)
    assert constraint.is_complete
    for _ in range(2):  # also after the end
        assert constraint.allowed(400).nonzero().flatten().tolist() == [tokenizer.eos_id]
        constraint.advance(tokenizer.eos_id)
    with pytest.raises(ValueError, match="token 5 may not come next"):
        constraint.advance(5)


def test_a_token_that_is_not_allowed(tokenizer):
    constraint = constrained(tokenizer, SCHEMAS["calls"])
    token = tokenizer.encode("the")[-1]
    assert not constraint.allowed(tokenizer.vocab_size)[token]
    with pytest.raises(ValueError, match=f"token {token} may not come next; choose one that"):
        constraint.advance(token)


def test_the_end_may_be_another_token(tokenizer):
    constraint = constrained(tokenizer, {"const": 1}, end_tokens=[0, 1])
    constraint.advance(tokenizer.encode("1")[-1])
    assert constraint.allowed(300).nonzero().flatten().tolist() == [0, 1]


@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_the_text_of_a_model(temperature, tokenizer):
    model = random_model(chat_config(vocab_size=320))
    constraint = constrained(tokenizer, SCHEMAS["calls"])
    tokens = TokenStream(model).generate(
        [1], 250, end_tokens=[tokenizer.eos_id], temperature=temperature, seed=0,
        constraint=constraint,
    )  # fmt: skip
    jsonschema.validate(json.loads(tokenizer.decode(list(tokens))), SCHEMAS["calls"])


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "text"}, r"the schema cannot constrain a text \(.*text.*\); change the schema"),
        ({"not": {"type": "string"}}, "the schema cannot constrain a text"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "the schema cannot constrain a text"),
    ],
)
def test_schemas_that_are_refused(schema, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        constrained(tokenizer, schema)


def test_a_tokenizer_that_cannot_write_the_text(tmp_path):
    constraint = constrained(open_tokenizer(make_tokenizer(tmp_path)), SCHEMAS["calls"])
    with pytest.raises(ValueError, match="the tokenizer has no token for the character that the"):
        constraint.allowed(64)


def test_what_is_missing(tmp_path, monkeypatch):
    tokenizer = open_tokenizer(make_tokenizer(tmp_path, eos_id=-1))
    with pytest.raises(
        ValueError, match=r"has no end-of-text token, with which .* give end_tokens"
    ):
        constrained(tokenizer, {})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"llguidance, .*; install it with pip install 'mobilellm"):
        check_installed()
