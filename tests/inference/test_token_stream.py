"""What the cache of earlier texts has does not change the next text."""

import pytest
import torch
from chat_models import chat_config, random_model

from mobilellm.inference import token_stream
from mobilellm.inference.token_stream import TokenStream
from mobilellm.models.generation import generate

FIRST = [1, *range(40, 60)]


@pytest.fixture(params=["own", "first"])
def model(request):
    return random_model(chat_config(block_repeats=2, share_kv=request.param))


@pytest.fixture
def logits(monkeypatch):
    """The logits of every step."""
    found = []

    def choose(logits, *settings, **others):
        found.append(logits)
        return original(logits, *settings, **others)

    original = token_stream.choose_tokens
    monkeypatch.setattr(token_stream, "choose_tokens", choose)
    return found


@torch.no_grad()
def naive(model, prompt, count):
    """The greedy text, and the logits of every step, from the whole text without a cache."""
    tokens, logits = list(prompt), []
    for _ in range(count):
        logits.append(model(torch.tensor([tokens])).logits[:, -1])
        tokens.append(int(logits[-1].argmax()))
    return tokens[len(prompt) :], logits


@pytest.mark.parametrize(
    ("change", "num_computed"),
    [
        (lambda text: [*text, 7, 8, 9], 4),  # the next turn; the last token was not computed
        (lambda text: text[:15], 1),  # the prompt again, but shorter
        (lambda text: [*text[:10], 250, *text[11:]], 21),  # a turn was changed
        (lambda text: [*text[:5], *text[12:]], 19),  # an old turn was dropped
        (lambda text: [0, *text], 32),  # nothing in common
    ],
)
def test_the_next_text_is_that_of_a_fresh_model(change, num_computed, model, logits):
    stream = TokenStream(model)
    text = [*FIRST, *stream.generate(FIRST, 10)]
    prompt = change(text)
    logits.clear()
    given = list(stream.generate(prompt, 8))
    expected, expected_logits = naive(model, prompt, 8)
    assert given == expected
    assert stream.num_computed == num_computed
    torch.testing.assert_close(torch.cat(logits), torch.cat(expected_logits), atol=1e-4, rtol=1e-4)


def test_a_text_that_was_left_early(model):
    """By the caller, and by an exception in the middle of a step."""

    class Interrupt:
        count = 0

        def allowed(self, size):
            self.count += 1
            if self.count == 4:
                raise KeyboardInterrupt
            return torch.ones(size, dtype=torch.bool)

        def advance(self, token):
            pass

    stream = TokenStream(model)
    left = stream.generate(FIRST, 10)
    begin = [next(left) for _ in range(3)]
    left.close()
    assert begin == naive(model, FIRST, 3)[0]
    prompt = [*FIRST, *begin, 7]
    with pytest.raises(KeyboardInterrupt):
        list(stream.generate(prompt, 10, constraint=Interrupt()))
    prompt += [8, 9]
    assert list(stream.generate(prompt, 6)) == naive(model, prompt, 6)[0]
    stream.reset()
    assert list(stream.generate(prompt, 6)) == naive(model, prompt, 6)[0]
    assert stream.num_computed == len(prompt)


def test_sampled_text_is_that_of_generate(model):
    settings = {"temperature": 1.5, "top_k": 50, "top_p": 0.9, "seed": 3}
    expected = generate(model, torch.tensor([FIRST]), 12, stop_at_eos=False, **settings)
    stream = TokenStream(model)
    list(stream.generate(FIRST, 5))
    assert list(stream.generate(FIRST, 12, **settings)) == expected[0, len(FIRST) :].tolist()


def test_a_text_ends_before_its_end_token(model):
    tokens = naive(model, FIRST, 6)[0]
    first = tokens.index(tokens[4])
    assert list(TokenStream(model).generate(FIRST, 6, end_tokens=[tokens[4]])) == tokens[:first]


@pytest.mark.parametrize(("prompt", "count"), [([], 3), (FIRST, 236)])
def test_texts_that_do_not_fit(model, prompt, count):
    with pytest.raises(ValueError, match="must have at least one token and fit into max_position_"):
        next(TokenStream(model).generate(prompt, count))
