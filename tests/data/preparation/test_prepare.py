"""What preparing makes of a corpus."""

import json

import numpy as np
import pytest
from preparing import config_for, naive_stream, prepare, read_all
from sentencepiece import SentencePieceProcessor

from mobilellm.data import (
    TextData,
    TokenizedData,
)
from mobilellm.data.overview import overview
from mobilellm.data.preparation.splitting import routed_chunks
from mobilellm.data.windows import WindowDataset


@pytest.mark.parametrize("workers", [1, 2])
def test_streams_equal_the_documents_encoded_and_joined(corpus, workers):
    prepared = prepare(config_for(corpus, workers=workers), shard_tokens=10_000)
    for split in ("train", "validation"):
        texts = read_all(corpus / split)
        expected = naive_stream(prepared, texts)
        stream = prepared.tokens(split)
        assert stream[:].tolist() == expected
        assert stream[:].dtype == np.uint16
        sizes = prepared.manifest["splits"][split]
        assert sizes["documents"] == len(texts) == len(stream.document_starts())
        assert sizes["text_bytes"] == sizes["token_bytes"] == sum(map(len, texts))
        assert prepared.count_bytes(stream[:]) == sum(map(len, texts))
        starts = stream.document_starts().astype(int)
        assert (stream[:][starts[1:] - 1] == prepared.eos_token_id).all()
    assert prepared.vocab_size == 400
    assert prepared.dir == corpus.parent / "prepared" / "train-400"
    assert (
        0
        < prepared.baselines["bigram_nats_per_token"]
        < prepared.baselines["unigram_nats_per_token"]
    )


def test_bits_per_byte_can_be_made_exactly(corpus):
    prepared = prepare(config_for(corpus))
    windows = WindowDataset(prepared.tokens("validation"), 64)
    labels = np.concatenate([windows[i]["labels"] for i in range(len(windows))])
    processor = SentencePieceProcessor(model_file=str(prepared.tokenizer_path))
    first = prepared.tokens("validation")[:1].tolist()
    text = processor.decode([*first, *labels.tolist()])
    assert prepared.count_bytes(labels) == len(text.encode()) - prepared.count_bytes(
        np.array(first)
    )


def test_held_out_documents_are_stable(tmp_path):
    def split_of(texts, share):
        (tmp_path / "a.txt").write_text("\n".join(texts), encoding="utf-8")
        config = TextData(
            train=str(tmp_path / "a.txt"), document="line", held_out=share, vocab_size=300
        )
        return {routed.chunk.content.decode(): routed.split for routed in routed_chunks(config)}

    texts = [f"document number {i}" for i in range(2000)]
    small, large = split_of(texts, 0.1), split_of(texts, 0.3)
    count = sum(split == "validation" for split in small.values())
    assert 150 < count < 250
    # A larger share holds out the same and more; other documents change nothing.
    assert all(large[text] == "validation" for text in texts if small[text] == "validation")
    fewer = split_of(texts[1::3][::-1], 0.1)
    assert all(small[text] == split for text, split in fewer.items())


def test_held_out_and_training_documents_are_apart(corpus):
    prepared = prepare(config_for(corpus, validation=None, document="blank_line", held_out=0.2))
    sizes = prepared.manifest["splits"]
    assert 0 < sizes["validation"]["documents"] < sizes["train"]["documents"]
    processor = SentencePieceProcessor(model_file=str(prepared.tokenizer_path))

    def texts(split):
        stream = prepared.tokens(split)[:].tolist()
        starts = prepared.tokens(split).document_starts().tolist()
        ends = [*starts[1:], len(stream)]
        return [processor.decode(stream[a : b - 1]) for a, b in zip(starts, ends, strict=True)]

    assert not set(texts("train")) & set(texts("validation"))


def test_tokens_given_as_ids(tmp_path):
    rows = [[5, 6, 2, 7], [8, 2], [9, 9, 9]] * 20
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text(
            "\n".join(json.dumps({"token_ids": row}) for row in rows),
            encoding="utf-8",
        )

    def data(**kwargs):
        return TokenizedData(
            train=str(tmp_path / "train.jsonl"),
            validation=str(tmp_path / "validation.jsonl"),
            vocab_size=70_000,
            prepared_dir=str(tmp_path / "prepared"),
            **kwargs,
        )

    prepared = prepare(data(add_eos=False))
    assert prepared.tokens("train")[:].tolist() == [token for row in rows for token in row]
    assert prepared.tokens("train")[:].dtype == np.uint32
    assert prepared.tokenizer_path is None
    assert prepared.token_bytes is None
    assert prepared.eos_token_id == 2
    with pytest.raises(ValueError, match="from token ids, and their text is not known; set"):
        prepared.count_bytes(np.array([5]))
    ended = prepare(data(add_eos=True, name="ended"))
    assert ended.tokens("train")[:12].tolist() == [5, 6, 2, 7, 2, 8, 2, 9, 9, 9, 2, 5]
    assert any("the data were given as token ids" in line for line in overview(prepared))
    (tmp_path / "train.jsonl").write_text('{"token_ids": [5, 70000]}', encoding="utf-8")
    with pytest.raises(ValueError, match="token id 70000 in document 1 of train is not below"):
        prepare(data(name="large"))


def test_ids_with_their_tokenizer_have_bytes(corpus, tmp_path):
    from_text = prepare(config_for(corpus))
    for split in ("train", "validation"):
        ids = from_text.tokens(split)[:].tolist()
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"token_ids": ids}), encoding="utf-8")
    from_ids = prepare(
        TokenizedData(
            train=str(tmp_path / "train.jsonl"),
            validation=str(tmp_path / "validation.jsonl"),
            tokenizer=str(from_text.tokenizer_path),
            vocab_size=400,
            add_eos=False,
            dir=str(tmp_path / "ids"),
        )
    )
    same = ("tokenizer", "train", "validation")
    assert [from_ids.hashes[key] for key in same] == [from_text.hashes[key] for key in same]
    assert np.array_equal(from_ids.token_bytes, from_text.token_bytes)
    assert from_ids.manifest["splits"]["train"]["token_bytes"] == sum(
        map(len, read_all(corpus / "train"))
    )


def test_max_megabytes(corpus):
    prepared = prepare(config_for(corpus, max_megabytes=0.05))
    sizes = [len(text) for text in read_all(corpus / "train")]
    taken = prepared.manifest["splits"]["train"]
    assert taken["documents"] == np.searchsorted(np.cumsum(sizes), 50_000) + 1
    assert taken["text_bytes"] == sum(sizes[: taken["documents"]])


def test_marks_that_read_back_as_spaces_are_counted(corpus):
    (corpus / "train" / "marks.txt").write_text("a\u2581b \u2581 " * 10, encoding="utf-8")
    prepared = prepare(config_for(corpus))
    assert prepared.manifest["space_marks"] == 20
    sizes = prepared.manifest["splits"]["train"]
    assert sizes["text_bytes"] - sizes["token_bytes"] == 2 * 20
    assert any("U+2581 20 times" in line for line in overview(prepared))


def test_overview_says_what_there_is(corpus):
    prepared = prepare(config_for(corpus))
    text = "\n".join(overview(prepared))
    sizes = prepared.manifest["splits"]["train"]
    assert f"{sizes['text_bytes']:,}" in text
    assert f"{sizes['tokens']:,}" in text
    assert "vocabulary  400 tokens, trained on " in text
    assert f"bigram {prepared.baselines['bigram_nats_per_token']:.3f}" in text
    assert "note" not in text
