import random
from pathlib import Path

import numpy as np
import pytest

from mobilellm.data.tokenizers import load_tokenizer
from mobilellm.data.tokenizers.even_sample import EvenSample
from mobilellm.data.tokenizers.sentencepiece_training import train_sentencepiece

SOURCE = Path(random.__file__).read_bytes()
TEXTS = [
    "plain words",
    "tabs\t\tand\ttabs",
    "unix\n\n\nlines\n",
    "dos\r\nlines\r\n",
    "  double  spaces   and a trailing one ",
    "    indented:\n        more\n",
    "日本語と中文 한국어",
    "emoji 😀👩‍👩‍👧‍👦🇩🇪",
    "combining e\u0301 and nfkc ﬁ ½ ①",
    "nul \0 and controls \x01\x1b\x7f",
    "odd spaces \u00a0\u2003\u3000\u2028\u2029\ufeff\u200b",
    "blocks ▅▅ ▅",
    "digits 1234567890 0.5e-3",
    "<s></s><unk><0x41>",
    "",
    " ",
    "\n",
]


@pytest.fixture(scope="module")
def model():
    return train_sentencepiece([SOURCE], 600)


@pytest.fixture(scope="module")
def tokenizer(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(model)
    return load_tokenizer(path, 600)


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip_loses_nothing(tokenizer, text):
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.unk_id not in tokens


@pytest.mark.parametrize("text", TEXTS)
def test_token_bytes_sum_to_the_text(tokenizer, text):
    counts = tokenizer.byte_counts()
    assert counts[tokenizer.encode(text)].sum() == len(text.encode())


def test_every_character_survives_but_one(tokenizer):
    everything = "".join(
        map(chr, (*range(0xD800), *range(0xE000, 0x11000), *range(0x1F300, 0x1F700)))
    )
    back = tokenizer.decode(tokenizer.encode(everything))
    assert back == everything.replace("\u2581", " ")


def test_special_ids_and_exact_size(tokenizer):
    assert tokenizer.vocab_size == 600
    assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    counts = tokenizer.byte_counts()
    assert counts[:3].tolist() == [0, 0, 0]
    assert counts[3:259].tolist() == [1] * 256
    assert (counts[3:] > 0).all()


def test_lines_and_indentation_get_tokens(tokenizer):
    pieces = {tokenizer.piece(token) for token in range(600)}
    assert "\n" in pieces
    assert "▁▁▁▁" in pieces


def test_training_is_deterministic(model):
    assert train_sentencepiece([SOURCE], 600) == model


def test_hash_is_of_pieces_and_scores(tokenizer, tmp_path):
    def hash_of(content):
        (tmp_path / "t.model").write_bytes(content)
        return load_tokenizer(tmp_path / "t.model", 600).fingerprint()

    assert hash_of(train_sentencepiece([SOURCE], 600)) == tokenizer.fingerprint()
    assert hash_of(train_sentencepiece([SOURCE[::2]], 600)) != tokenizer.fingerprint()


def test_a_small_vocabulary_for_many_characters_keeps_room_for_words():
    chinese = "".join(map(chr, range(0x4E00, 0x5600)))
    text = (chinese + " hello hello hello ").encode() * 2
    sample = EvenSample(1 << 20)
    sample.add(text)
    assert train_sentencepiece(sample.parts, 400)


def test_long_texts_are_not_skipped():
    # SentencePiece alone would pass over every text longer than 4,192 bytes, and find nothing.
    sample = EvenSample(1 << 20)
    sample.add(b"abcdefghij" * 2000 + b" klmnop" * 2000)
    assert all(len(part) <= 4192 for part in sample.parts)
    assert b"".join(sample.parts) == b"abcdefghij" * 2000 + b" klmnop" * 2000
    assert train_sentencepiece(sample.parts, 290)


def test_text_around_reserved_characters_is_not_skipped():
    text = "▅ wonderful \0 marvellous ".encode() * 50
    pieces = _pieces(train_sentencepiece([text], 300))
    assert any("wonder" in piece for piece in pieces)
    assert any("marvel" in piece for piece in pieces)


def _pieces(model):
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(token) for token in range(processor.vocab_size())]


@pytest.mark.parametrize("size", [10, 4000, 100_000, 2_000_000])
def test_sample_is_bounded_and_even(size):
    sample = EvenSample(50_000)
    text = b" ".join(b"%07d" % number for number in range(size // 8))
    for start in range(0, len(text), 60_000):
        sample.add(text[start : start + 60_000])
    assert sample.num_bytes == sum(map(len, sample.parts)) <= 50_000
    if len(text) <= 50_000:
        assert b"".join(sample.parts) == text
        return
    assert sample.num_bytes > 50_000 / 4
    places = [text.index(part) / len(text) for part in sample.parts]
    assert np.diff(places).max() < 4 * np.diff(places).mean()
    assert places[0] == 0
    assert places[-1] > 0.8


def test_text_that_is_too_small():
    with pytest.raises(
        ValueError,
        match=r"vocab_size=1000 is too large for the 12 B of text .* use "
        r"model.vocab_size=\d+ or less, or more text",
    ):
        train_sentencepiece([b"hello world "], 1000)
    with pytest.raises(ValueError, match=r"=300 is too large for the 0 B .*; use more text"):
        train_sentencepiece([], 300)


def test_a_table_may_have_more_rows_than_the_tokenizer_tokens(model, tokenizer, tmp_path):
    """As where it is padded to a multiple of 64."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(model)
    padded = load_tokenizer(path, 640)
    assert padded.encode("hello") == tokenizer.encode("hello")
    counts = padded.byte_counts(640)
    assert counts.shape == (640,)
    assert counts[:600].tolist() == tokenizer.byte_counts().tolist()
    assert not counts[600:].any()


def test_other_tokenizers_are_refused(model, tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(model)
    with pytest.raises(
        ValueError,
        match=r"has 600 tokens, more than the model's vocab_size=512; use model.vocab_size=600 or",
    ):
        load_tokenizer(path, 512)
    with pytest.raises(ValueError, match=rf"tokenizer={tmp_path} is a folder; give the file in it"):
        load_tokenizer(tmp_path, 600)
    path.write_bytes(b"no model")
    with pytest.raises(
        ValueError, match=r"is not a SentencePiece model; give a SentencePiece token"
    ):
        load_tokenizer(path, 600)
    with pytest.raises(FileNotFoundError, match=r"missing.model does not exist; give a Sent"):
        load_tokenizer(tmp_path / "missing.model", 600)
