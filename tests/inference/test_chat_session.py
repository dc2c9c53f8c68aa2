"""Answers of a session: their text, numbers and ends."""

import json

import jsonschema
import pytest
import torch
from chat_models import save_chat_model
from tiny_tokenizers import make_byte_level, make_constant_model

from mobilellm.checkpoint import save_model
from mobilellm.inference.chat_session import ChatSession
from mobilellm.inference.functions import calls_schema, make_functions
from mobilellm.inference.loaded_model import load
from mobilellm.models.generation import generate

QUESTION = {"role": "user", "content": "the quick brown fox"}
SAMPLED = {"temperature": 1.0, "seed": 0}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load(save_chat_model(tmp_path_factory.mktemp("model") / "m", context=1024))


def reply(session, messages, *arguments, **settings):
    answer, pieces = session.reply(messages, *arguments, **settings)
    assert "".join(pieces) == answer.text
    return answer


def test_the_second_turn_computes_only_the_new_message(loaded):
    session = ChatSession(loaded)
    first = reply(session, [QUESTION], 20, **SAMPLED)
    assert (first.new_tokens, first.end) == (20, "limit")
    assert first.computed_tokens == first.prompt_tokens
    assert first.tokens_per_second > 0
    # An answer that is UTF-8, so that it is encoded as the tokens that were generated.
    talk = [QUESTION, {"role": "assistant", "content": "a lazy dog"}, QUESTION]
    reply(session, talk, 1)
    talk += [{"role": "assistant", "content": "again"}, QUESTION]
    third = reply(session, talk, 20, **SAMPLED)
    assert 0 < third.computed_tokens < third.prompt_tokens / 2
    fresh = reply(ChatSession(loaded), talk, 20, **SAMPLED)
    assert third.text == fresh.text
    assert fresh.computed_tokens == fresh.prompt_tokens == third.prompt_tokens
    session.reset()
    assert reply(session, talk, 20).computed_tokens == third.prompt_tokens


def test_the_text_is_that_of_generate(loaded):
    tokenizer = loaded.tokenizer
    prompt = tokenizer.encode_rendered(tokenizer.apply_chat_template([QUESTION]))
    tokens = generate(loaded.model, torch.tensor([prompt]), 15, stop_at_eos=False, **SAMPLED)
    expected = tokenizer.decode(tokens[0, len(prompt) :].tolist())
    assert reply(ChatSession(loaded), [QUESTION], 15, **SAMPLED).text == expected


def constant(folder, token, context=64):
    path = make_byte_level(folder / "t", template="{{ messages[-1].content }}")
    model = make_constant_model(
        token, vocab_size=310, max_position_embeddings=context, bos_token_id=1, eos_token_id=2
    )
    save_model(model, folder / "m", path)
    return ChatSession(load(folder / "m"))


def test_how_answers_end(tmp_path):
    ended = reply(constant(tmp_path / "a", 2), [QUESTION])
    assert (ended.text, ended.new_tokens, ended.end) == ("", 0, "ended")
    assert ended.tokens_per_second is None
    assert ended.computed_tokens == ended.prompt_tokens
    session = constant(tmp_path / "b", 60)
    cut = reply(session, [QUESTION])
    assert (cut.prompt_tokens + cut.new_tokens, cut.end) == (64, "context")
    answer, pieces = session.reply([QUESTION], 10)
    left = next(pieces) + next(pieces)
    pieces.close()
    assert (answer.text, answer.new_tokens, answer.end) == (left, 2, "stopped")
    # A row of the embedding beyond the tokenizer's tokens has no text.
    assert reply(constant(tmp_path / "c", 305), [QUESTION], 4).text == ""


def test_old_turns_are_dropped(loaded):
    answer = {"role": "assistant", "content": "a dog"}
    talk = [*[QUESTION, answer] * 40, QUESTION]
    given = reply(ChatSession(loaded), talk, 100)
    assert given.dropped_turns == 40 - len(given.kept_messages) // 2 > 0
    assert given.prompt_tokens <= 924


def test_answers_of_a_schema(loaded):
    functions = make_functions([{"name": "now"}, {"name": "today"}])
    schema = calls_schema(functions)
    session = ChatSession(loaded, functions=functions, schema=schema)
    for seed in range(2):
        given = reply(session, [QUESTION], 60, temperature=2.0, seed=seed)
        jsonschema.validate(json.loads(given.text), schema)
        assert given.end == "ended"
    with pytest.raises(ValueError, match="the schema cannot constrain a text"):
        ChatSession(loaded, schema={"type": "text"})


def test_settings_out_of_range(loaded):
    session = ChatSession(loaded)
    for settings in ({"temperature": -1.0}, {"top_p": 2.0, "temperature": 1.0}, {"top_k": 3}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            session.reply([QUESTION], 5, **settings)
    with pytest.raises(ValueError, match="max_new_tokens"):
        session.reply([QUESTION], -1)
