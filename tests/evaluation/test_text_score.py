"""Perplexity of texts against naive loops that follow the published evaluation scripts."""

import math

import pytest
from naive_text import BOS, EOS, ByteTokenizer, make_model, nats_of

from mobilellm.evaluation.text_protocols import PROTOCOLS, TextProtocol, join_rows, text_windows
from mobilellm.evaluation.text_score import score_text

TEXT = "The cabs stood about; a grab bag of fabrics, and a crab on its slab. " * 4
TOKENS = ByteTokenizer().encode(TEXT)


def sized(name, window, stride=None):
    return PROTOCOLS[name].with_sizes(window, stride)


def test_documents_with_bos_begin_every_window_with_it():
    """A model that always read BOS first must not read windows without it, nor with two."""
    model = make_model(adds_bos=True)
    found = score_text(model, [TEXT], sized("documents", 30))
    expected = [
        nats_of(model, [BOS, *TOKENS[first : first + 30]], len(TOKENS[first : first + 30]))
        for first in range(0, len(TOKENS), 30)
    ]
    assert found.nats == pytest.approx(expected, abs=1e-3)
    assert sum(found.tokens) == len(TOKENS)
    assert sum(found.num_bytes) == pytest.approx(len(TEXT))
    assert "a begin-of-text token before every window" in found.protocol


def test_documents_without_bos_follow_an_end_of_text_token():
    model = make_model()
    found = score_text(model, [TEXT], sized("documents", 30))
    stream = [EOS, *TOKENS]
    expected = [
        nats_of(model, stream[first : first + 31], len(stream[first : first + 31]) - 1)
        for first in range(0, len(TOKENS), 30)
    ]
    assert found.nats == pytest.approx(expected, abs=1e-3)
    assert sum(found.tokens) == len(TOKENS)
    assert found.bits_per_byte == pytest.approx(sum(expected) / math.log(2) / len(TEXT), abs=1e-4)
    assert found.nats_per_token == pytest.approx(sum(expected) / len(TOKENS), abs=1e-4)


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("adds_eos", [None, True])
def test_joined_documents_are_the_stream_of_training(adds_bos, adds_eos):
    model = make_model(adds_bos=adds_bos)
    model.tokenizer.adds_eos = adds_eos
    texts = [TEXT[:50], TEXT[:20], TEXT[:70]]
    found = score_text(model, texts, sized("documents", 32), are_joined=True, max_windows=3)
    stream = [] if adds_bos else [EOS]
    for text in texts:
        tokens = ByteTokenizer().encode(text)
        stream += [BOS] * adds_bos + tokens + [EOS] * (adds_eos is True or not adds_bos)
    expected = [nats_of(model, stream[a : a + 33], 32) for a in (0, 32, 64)]
    assert found.nats == pytest.approx(expected, abs=1e-3)
    predicted = [stream[a + 1 : a + 33] for a in (0, 32, 64)]
    sizes = [sum(2 if t == 259 else 1 for t in row if t > 2) for row in predicted]
    assert found.num_bytes == tuple(sizes)
    assert found.documents == 3


@pytest.mark.parametrize("limits", [{"max_windows": 3}, {}])
@pytest.mark.parametrize("name", ["documents", "meta", "strided"])
def test_only_bytes_that_are_predicted_count(name, limits):
    """The tokens between short documents do not stand for bytes of the text that is left out."""
    model = make_model(adds_bos=False)
    texts = ["abcd"] * 25
    found = score_text(model, texts, sized(name, 32), are_joined=True, **limits)
    stream = [EOS]
    for text in texts:
        stream += [*ByteTokenizer().encode(text), EOS]
    predicted = stream[1 : 1 + sum(found.tokens)]
    if name == "meta":
        read = (stream[i : i + 32] for i in range(0, len(stream) - 31, 32))
        predicted = [token for window in read for token in window[1:]][: sum(found.tokens)]
    assert sum(found.num_bytes) == sum(2 if t == 259 else 1 for t in predicted if t > 2)
    if not limits and name != "meta":
        assert sum(found.num_bytes) == 100


@pytest.mark.parametrize("adds_bos", [True, False])
def test_meta_protocol_is_that_of_its_evaluation_script(adds_bos):
    """One BOS at the start, disjoint windows, no remainder, and the mean of the windows' means."""
    model = make_model(adds_bos=adds_bos)
    found = score_text(model, [TEXT], sized("meta", 40))
    ids = ([BOS] if adds_bos else []) + TOKENS
    windows = [ids[i * 40 : (i + 1) * 40] for i in range(len(ids) // 40)]
    means = [nats_of(model, window, 39) / 39 for window in windows]
    assert found.nats_per_token == pytest.approx(sum(means) / len(means), abs=1e-4)
    assert sum(found.tokens) == 39 * len(windows)
    assert sum(found.num_bytes) < len(TEXT)


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize(("window", "stride"), [(40, 20), (40, 7), (64, 32)])
def test_strided_protocol_is_that_of_hugging_faces_documentation(adds_bos, window, stride):
    model = make_model(adds_bos=adds_bos)
    found = score_text(model, [TEXT], sized("strided", window, stride))
    ids = ([BOS] if adds_bos else []) + TOKENS
    total, count, previous_end = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        targets = end - previous_end
        predicted = min(targets, end - begin - 1)  # labels are shifted inside the window
        total += nats_of(model, ids[begin:end], predicted)
        count += predicted
        previous_end = end
        if end == len(ids):
            break
    assert found.nats_per_token == pytest.approx(total / count, abs=1e-4)
    assert sum(found.tokens) == count


@pytest.mark.parametrize("name", ["documents", "strided"])
@pytest.mark.parametrize("begin", [(), (BOS,)])
@pytest.mark.parametrize("stride", [1, 3, 8])
def test_every_token_is_predicted_once_and_windows_are_full(name, begin, stride):
    tokens = list(range(100, 137))
    windows = list(text_windows(tokens, sized(name, 8, stride), begin=begin, start=EOS))
    predicted = [token for window in windows for token in window.predicted]
    is_first_read = name == "strided" and not begin
    assert predicted == tokens[is_first_read:]
    for window in windows[1:-1]:
        assert len(window.prompt) + len(window.predicted) - 1 <= 8
        if begin and name == "documents":
            assert window.prompt[0] == BOS
        assert BOS not in window.prompt[1:]


def test_rows_are_joined_as_the_data_sets_are():
    assert join_rows(" = Title = \n \n Some text . \n") == " = Title = \n\n\n\n\n Some text . \n"
    assert join_rows("a\x85b\x0cc\u2028d\r\ne\n") == "a\x85b\x0cc\u2028d\r\n\n\ne\n"
    assert join_rows("one\n\ntwo") == "\n\n".join(["one\n", "", "two"])


def test_record_has_the_fields_of_the_contract():
    record = score_text(make_model(), [TEXT], sized("documents", 30)).record()
    assert record["perplexity"] == pytest.approx(math.exp(record["nats_per_token"]))
    low, high = record["bits_per_byte_interval"]
    assert low < record["bits_per_byte"] < high
    assert record["bytes"] == len(TEXT) and record["windows"] == len(range(0, len(TOKENS), 30))


def test_a_single_window_has_no_interval():
    """Its bootstrap samples are all equal, which would claim certainty."""
    record = score_text(make_model(), [TEXT], sized("documents", 30), max_windows=1).record()
    assert (record["windows"], record["all_windows"]) == (1, len(range(0, len(TOKENS), 30)))
    assert not [name for name in record if name.endswith("_interval")]


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="window=1 must be at least 2"):
        sized("documents", 1)
    with pytest.raises(ValueError, match="stride=9 must lie between 1 and window=8"):
        sized("documents", 8, 9)
    with pytest.raises(ValueError, match="stride=4 must be window=8"):
        sized("meta", 8, 4)
    with pytest.raises(ValueError, match="window=65 exceeds max_position_embeddings=64 of bytes"):
        score_text(make_model(), [TEXT], sized("documents", 65))
    with pytest.raises(ValueError, match="the text has 2 tokens, too few for meta: disjoint"):
        score_text(make_model(), ["hm"], sized("meta", 40))


def test_sizes_keep_their_relation():
    assert sized("strided", 100).stride == 50
    assert sized("documents", 100).stride == 100
    assert sized("documents", None, 100) == TextProtocol(name="documents", window=512, stride=100)
