"""Encoding of contexts and answers, against the harness's own, with known traps one by one."""

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from naive_text import BOS, EOS, ByteTokenizer, make_model, nats_of

from mobilellm.evaluation.harness.model import HarnessModel
from mobilellm.evaluation.language_model import encode_pairs, rolling_pairs
from mobilellm.evaluation.until import generate_until

PAIRS = [
    ("A crab on a slab", " grabs a fabric."),
    ("The answer is", " yes"),
    ("The answer is ", "yes"),  # the space belongs to the answer
    ("Cra", "bs on"),  # `ab` is one token, which crosses the boundary
    ("", " grab it"),
    ("  ", "grab it"),
    ("x" * 90, " a long context"),
    ("Line\n", "next"),
]


class NaiveHarness(TemplateLM):
    """The harness's own encoding, and one row at a time for the scores."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    @property
    def eot_token_id(self):
        return EOS

    @property
    def prefix_token_id(self):
        return self.model.start

    def tok_encode(self, string, add_special_tokens=None, **_):
        begin = [] if add_special_tokens is False else list(self.model.begin)
        return begin + ByteTokenizer().encode(string)

    def _loglikelihood_tokens(self, requests, **_):
        scores = []
        for _, context, continuation in requests:
            tokens = (context + continuation)[-(self.model.context_length + 1) :]
            scores.append((-nats_of(self.model, tokens, len(continuation)), False))
        return scores

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError

    def generate_until(self, requests, disable_tqdm=False):
        raise NotImplementedError


def requests(kind, every):
    return [
        Instance(request_type=kind, doc={}, arguments=each, idx=i) for i, each in enumerate(every)
    ]


def decode(tokens):
    return ByteTokenizer().decode(tokens)


def test_log_likelihoods_are_the_harness_s():
    model = make_model()
    pairs = [pair for pair in PAIRS if pair[0].strip() or not pair[0]]
    made = requests("loglikelihood", pairs)
    expected = NaiveHarness(model).loglikelihood(made, disable_tqdm=True)
    found = HarnessModel(model).loglikelihood(made)
    assert [score for score, _ in found] == pytest.approx([s for s, _ in expected], abs=1e-3)


def test_log_likelihoods_with_bos_are_the_harness_s():
    model = make_model(adds_bos=True)
    made = requests("loglikelihood", [pair for pair in PAIRS if 0 < len(pair[0].strip()) < 60])
    expected = NaiveHarness(model).loglikelihood(made, disable_tqdm=True)
    found = HarnessModel(model).loglikelihood(made)
    assert [score for score, _ in found] == pytest.approx([s for s, _ in expected], abs=1e-3)


def test_the_boundary_is_not_encoded_apart():
    """Encoded apart, `b` would be a token that never follows `a`."""
    ((prompt, rest),) = encode_pairs(make_model(), [("a gr", "ab")]).pairs
    assert (decode(prompt), rest) == ("a gr", [259])
    ((prompt, rest),) = encode_pairs(make_model(), [("a sc", "abbing")]).pairs
    assert rest[0] == 259
    with pytest.raises(ValueError, match="'b' adds no token to its question"):
        encode_pairs(make_model(), [("a cra", "b")])


def test_spaces_at_the_end_of_a_context_belong_to_the_answer():
    ((prompt, rest),) = encode_pairs(make_model(), [("Is it? ", "yes")]).pairs
    assert (decode(prompt), decode(rest)) == ("Is it?", " yes")


@pytest.mark.parametrize("adds_bos", [True, False])
def test_bos_is_read_once_if_the_protocol_has_it(adds_bos):
    model = make_model(adds_bos=adds_bos)
    pairs = encode_pairs(model, PAIRS).pairs
    for prompt, rest in pairs:
        assert prompt.count(BOS) == adds_bos and BOS not in rest
        if adds_bos:
            assert prompt[0] == BOS
    empty, spaces = encode_pairs(model, [("", " grab"), ("  ", "grab")]).pairs
    assert empty[0] == spaces[0] == ([BOS] if adds_bos else [EOS])


@pytest.mark.parametrize("adds_bos", [True, False])
def test_long_contexts_lose_their_begin_and_it_is_counted(adds_bos):
    model = make_model(adds_bos=adds_bos, context=32)
    text = "".join(chr(ord("c") + i % 20) for i in range(50))
    encoded = encode_pairs(model, [(text, " end"), ("short", " end")])
    (prompt, rest), _ = encoded.pairs
    assert encoded.truncated == 1
    assert len(prompt) + len(rest) == 33  # the last token is not read
    assert text.endswith(decode(prompt))
    assert prompt[0] == (BOS if adds_bos else ByteTokenizer().encode(text)[-len(prompt)])
    assert decode(rest) == " end"


def test_answers_must_fit():
    with pytest.raises(ValueError, match="has 40 tokens, more than max_position_embeddings=32"):
        encode_pairs(make_model(context=32), [("Q", "c" * 40)])


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 65, 100])
def test_rolling_windows_are_the_harness_s(length):
    model = make_model(context=32)
    text = "cdefghijklmnopqrstuvwxyz"[: length % 24] + "z" * (length - length % 24)
    tokens = ByteTokenizer().encode(text)
    expected = [
        make_disjoint_window(window)
        for window in get_rolling_token_windows(tokens, EOS, max_seq_len=32, context_len=1)
    ]
    assert rolling_pairs(model, text) == expected


def test_rolling_windows_all_begin_with_bos():
    """The harness puts it before the first window only, and there twice."""
    model = make_model(adds_bos=True, context=32)
    windows = rolling_pairs(model, "c" * 70)
    assert [t for _, rest in windows for t in rest] == ByteTokenizer().encode("c" * 70)
    for prompt, rest in windows:
        assert prompt[0] == BOS and prompt.count(BOS) == 1
        assert len(prompt) + len(rest) - 1 <= 32
    assert len(windows[-1][0]) + len(windows[-1][1]) - 1 == 32


def test_rolling_log_likelihood_is_the_sum_of_its_windows():
    model = make_model(context=32)
    texts = [("grab a crab " * 6,), ("slab",)]
    found = HarnessModel(model).loglikelihood_rolling(requests("loglikelihood_rolling", texts))
    for (text,), value in zip(texts, found, strict=True):
        naive = sum(nats_of(model, [*a, *b], len(b)) for a, b in rolling_pairs(model, text))
        assert value == pytest.approx(-naive, abs=1e-3)


def naive_answer(model, prompt, limit, stops):
    tokens, new = list(prompt), []
    while len(new) < limit:
        with torch.no_grad():
            token = int(model.model(torch.tensor([tokens])).logits[0, -1].argmax())
        if token == EOS:
            break
        tokens.append(token)
        new.append(token)
    text = decode(new)
    places = [text.index(stop) for stop in stops if stop in text]
    return text[: min(places)] if places else text


def test_generated_answers_are_those_of_one_token_at_a_time():
    model = make_model(seed=3, context=128)
    contexts = ["What is it?", "Grab", "A longer question about a crab on a slab:"]
    for settings in ({"until": ["q"], "max_gen_toks": 20}, {"until": "e", "max_new_tokens": 37}):
        found, truncated = generate_until(model, [(context, settings) for context in contexts])
        limit = settings.get("max_gen_toks") or settings["max_new_tokens"]
        expected = [
            naive_answer(model, ByteTokenizer().encode(c), limit, settings["until"])
            for c in contexts
        ]
        assert (found, truncated) == (expected, 0)


def test_generation_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="samples its answers"):
        generate_until(make_model(), [("Q", {"do_sample": True})])
    with pytest.raises(ValueError, match="up to 256 tokens, which leaves no room"):
        generate_until(make_model(), [("Q", {})])
    _, truncated = generate_until(make_model(), [("c" * 80, {"max_gen_toks": 4})])
    assert truncated == 1
