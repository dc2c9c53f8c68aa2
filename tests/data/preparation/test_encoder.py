import io
import random
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceTrainer

from mobilellm.data.preparation.encoder import Batch, Encoder
from mobilellm.data.preparation.workers import encode_batches
from mobilellm.data.source import cut_text
from mobilellm.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from mobilellm.data.tokenizers.sentencepiece_training import train_sentencepiece
from mobilellm.data.tokenizers.settings import TokenizerSettings

SOURCE = Path(random.__file__).read_bytes()
OTHER = Path(Path(random.__file__).parent / "textwrap.py").read_bytes()
TEXTS = [
    OTHER,
    b"  two  spaces \r\n\tand tabs   ",
    "日本語  😀 \0 ▅\u3000x".encode(),
    b" leading",
    b"trailing ",
    b"trailing   ",
    b" ",
    b"x" * 300,
]


def opened(model):
    return SentencePieceTokenizer(Path("tokenizer.model"), model, TokenizerSettings())


def trained(**options):
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(SOURCE.decode().splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=500,
        byte_fallback=True,
        minloglevel=2,
        **options,
    )
    return opened(model.getvalue())


@pytest.fixture(scope="module")
def ours():
    return opened(train_sentencepiece([SOURCE], 500))


@pytest.fixture(scope="module")
def llama_like():
    return trained(
        normalization_rule_name="identity", add_dummy_prefix=True, remove_extra_whitespaces=False
    )


@pytest.fixture(scope="module")
def across_words():
    return trained(
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_by_whitespace=False,
    )


@pytest.fixture(scope="module")
def normalising():
    return trained(normalization_rule_name="nmt_nfkc")


def batch_of(texts, limit=None):
    batch = Batch([], [], [])
    for text in texts:
        parts = list(cut_text(text, limit)) if limit else [text]
        for number, part in enumerate(parts):
            batch.texts.append(part)
            batch.begins.append(number == 0)
            batch.ends.append(number == len(parts) - 1)
    return batch


@pytest.mark.parametrize("name", ["ours", "llama_like", "across_words", "normalising"])
def test_documents_are_encoded_as_sentencepiece_does(name, request):
    processor = request.getfixturevalue(name)
    encoder = Encoder(processor, "<u2", 2)
    encoded = encoder.encode(batch_of(TEXTS))
    expected = [[*processor.encode(text), 2] for text in TEXTS]
    assert encoded.tokens.tolist() == [token for tokens in expected for token in tokens]
    assert encoded.document_ends.tolist() == np.cumsum([len(e) for e in expected]).tolist()


def test_words_are_looked_up_only_where_that_is_exact(ours, llama_like, across_words):
    by_word = [Encoder(p, "<u2", 2).by_word for p in (ours, llama_like, across_words)]
    assert by_word == [True, True, False]


@pytest.mark.parametrize("name", ["ours", "llama_like"])
@pytest.mark.parametrize("limit", [64, 1000])
def test_pieces_of_a_document_give_the_tokens_of_the_whole(name, limit, request):
    processor = request.getfixturevalue(name)
    encoded = Encoder(processor, "<u2", 2).encode(batch_of([OTHER, b"short"], limit))
    assert encoded.tokens.tolist() == [
        *processor.encode(OTHER), 2, *processor.encode("short"), 2,
    ]  # fmt: skip


def test_long_words_are_not_remembered(ours):
    encoder = Encoder(ours, "<u2", 2)
    encoder.encode(batch_of([b"y" * 1000]))
    assert all(len(word) <= 64 for word in encoder._cache)


def test_without_eos(ours):
    encoded = Encoder(ours, "<u2", None).encode(batch_of([b"one", b"two"]))
    assert encoded.tokens.tolist() == [*ours.encode("one"), *ours.encode("two")]


def test_processes_give_the_same_in_the_same_order(ours, tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train_sentencepiece([SOURCE], 500))
    batches = [(number, batch_of([b"number %d " % number, OTHER[number:]])) for number in range(12)]

    def run(workers):
        return list(
            encode_batches(
                iter(batches), tokenizer_path=path, vocab_size=500, dtype="<u2", eos_token_id=2,
                workers=workers,
            )
        )  # fmt: skip

    for (label, one), (other_label, two) in zip(run(1), run(2), strict=True):
        assert label == other_label
        assert np.array_equal(one.tokens, two.tokens)
        assert np.array_equal(one.document_ends, two.document_ends)


def test_batches_are_taken_only_a_few_ahead(ours, tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train_sentencepiece([SOURCE], 500))
    taken = 0

    def batches():
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number, batch_of([b"text"])

    encoded = encode_batches(
        batches(), tokenizer_path=path, vocab_size=500, dtype="<u2", eos_token_id=2, workers=2
    )
    for _ in range(3):
        next(encoded)
    assert taken < 20
    encoded.close()
