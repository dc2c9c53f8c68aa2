"""Pieces of a text, joined, are the text that is decoded at once."""

import random

import pytest
from tiny_tokenizers import make_byte_fallback, make_byte_level, make_tokenizer

from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.inference.text_stream import TextStream

TEXTS = ("the quick brown fox", "  two  spaces, a é in ação ", "日本語 🙂🙂\n👩‍👩‍👧 x", "")


@pytest.fixture(scope="module", params=["SentencePiece", "byte-level"])
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    if request.param == "byte-level":
        return open_tokenizer(make_byte_level(folder))
    return open_tokenizer(make_tokenizer(folder, vocab_size=320, byte_fallback=True))


def pieces_of(tokenizer, tokens):
    stream = TextStream(tokenizer)
    pieces = [*map(stream.add, tokens), stream.end()]
    assert stream.text == "".join(pieces)
    return pieces


@pytest.mark.parametrize("text", TEXTS)
def test_joined_pieces_are_the_text(text, tokenizer):
    tokens = tokenizer.encode(text)
    pieces = pieces_of(tokenizer, tokens)
    assert "".join(pieces) == tokenizer.decode(tokens)
    assert "\ufffd" not in "".join(pieces)
    assert all(len(piece) <= len("the quick") for piece in pieces)  # none waits for the others


def test_a_character_arrives_with_its_last_byte(tokenizer):
    tokens = tokenizer.encode("x🙂y")
    assert [piece for piece in pieces_of(tokenizer, tokens) if piece] == ["x", "🙂", "y"]
    incomplete = tokens[:-2]  # without the last byte, and y
    assert pieces_of(tokenizer, incomplete)[-1].strip("\ufffd") == ""
    assert "".join(pieces_of(tokenizer, incomplete)) == tokenizer.decode(incomplete)


def test_characters_that_are_replaced_later_stay(tmp_path):
    tokenizer = open_tokenizer(make_byte_fallback(tmp_path))
    tokens = tokenizer.encode("a 日🙂")
    assert [piece for piece in pieces_of(tokenizer, tokens) if piece] == ["a", " ", "日", "🙂"]
    assert tokenizer.decode(tokens[:-1]) == "a " + "\ufffd" * 6
    assert "".join(pieces_of(tokenizer, tokens[:-1])).startswith("a 日")


def test_random_tokens(tokenizer):
    """Also bytes that are no characters, and special tokens."""
    source = random.Random(0)
    for _ in range(100):
        tokens = source.choices(range(tokenizer.vocab_size), k=source.randrange(1, 30))
        assert "".join(pieces_of(tokenizer, tokens)) == tokenizer.decode(tokens)


def test_rows_of_a_padded_embedding_have_no_text(tokenizer):
    stream = TextStream(tokenizer)
    tokens = tokenizer.encode("the fox")
    assert stream.add(tokenizer.vocab_size) == ""
    assert "".join(map(stream.add, tokens)) == "the fox"
