"""What becomes validation where documents are few: the end of the text, and never a copy of it."""

import json
import logging
import random

import pytest
from preparing import LIBRARY, prepare, read_all
from question_rows import config_for as rationale_config
from question_rows import rows
from sentencepiece import SentencePieceProcessor

from mobilellm.data import JsonlData, TextData, TokenizedData
from mobilellm.data.overview import overview
from mobilellm.data.preparation.held_out import Outline, last_share_of
from mobilellm.data.source import Chunk, document_chunks


def text_of(prepared, split):
    """The text of each document of a split."""
    processor = SentencePieceProcessor(model_file=str(prepared.tokenizer_path))
    stream = prepared.tokens(split)
    starts = stream.document_starts().astype(int).tolist()
    ends = [*starts[1:], len(stream)]
    return [
        processor.decode(stream[start : end - 1].tolist())
        for start, end in zip(starts, ends, strict=True)
    ]


def config_of(tmp_path, train, **settings):
    return TextData(
        **{"train": str(train), "vocab_size": 400, "prepared_dir": str(tmp_path / "prepared")}
        | settings
    )


@pytest.mark.parametrize(("share", "workers"), [(None, None), (0.3, 2)])
def test_one_text_file_is_cut_near_its_end(tmp_path, caplog, share, workers):
    caplog.set_level(logging.INFO, logger="mobilellm")
    text = (LIBRARY / "argparse.py").read_text(encoding="utf-8")
    (tmp_path / "book.txt").write_text(text, encoding="utf-8")
    prepared = prepare(
        config_of(tmp_path, tmp_path / "book.txt", held_out=share, workers=workers),
        shard_tokens=9_999,
    )
    [head], [tail] = text_of(prepared, "train"), text_of(prepared, "validation")
    assert head + tail == text
    asked = share or 0.05
    assert 0.5 * asked <= len(tail) / len(text) <= 1.5 * asked
    # Between two paragraphs, since there is a blank line so near.
    assert head.endswith("\n\n")
    assert not tail.startswith("\n")
    sizes = prepared.manifest["splits"]
    assert [sizes[split]["text_bytes"] for split in sizes] == [len(head), len(tail)]
    assert prepared.manifest["held_out"] == "last_share"
    assert "of 1 document is less than one document, so the last" in caplog.text
    assert any("the end of the text" in line for line in overview(prepared))
    with pytest.raises(ValueError, match=r"window, the validation split in \S+ has \d+; use a seq"):
        prepared.windows("validation", len(text))


def test_the_tokenizer_sees_no_text_held_out(tmp_path):
    words = random.Random(0).choices(["alpha", "beta", "gamma", "delta"], k=4000)
    (tmp_path / "a.txt").write_text(" ".join(words) + "\n" + "zzzz " * 100, encoding="utf-8")
    prepared = prepare(config_of(tmp_path, tmp_path / "a.txt", vocab_size=280, held_out=0.02))
    processor = SentencePieceProcessor(model_file=str(prepared.tokenizer_path))
    assert text_of(prepared, "validation") == ["zzzz " * 100]
    assert not any("z" in processor.id_to_piece(token) for token in range(259, 280))


def test_documents_too_few_for_the_share(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("abc", "bisect", "copy", "glob"):
        (folder / f"{name}.txt").write_bytes((LIBRARY / f"{name}.py").read_bytes())
    prepared = prepare(config_of(tmp_path, folder, held_out=0.01))
    whole = [text.decode() for text in read_all(folder)]
    train, validation = text_of(prepared, "train"), text_of(prepared, "validation")
    assert train[:3] == whole[:3]
    assert train[3] + validation[0] == whole[3]
    assert len(validation) == 1


def test_enough_documents_are_held_out_whole_as_before(tmp_path):
    texts = [f"document number {number} of the corpus\n" * 20 for number in range(200)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    prepared = prepare(
        JsonlData(train=str(path), vocab_size=300, prepared_dir=str(tmp_path / "prepared"))
    )
    assert prepared.manifest["held_out"] == "documents"
    train, validation = text_of(prepared, "train"), text_of(prepared, "validation")
    assert sorted(train + validation) == sorted(texts)
    # The very documents and the order of versions that knew no other way.
    assert prepared.hashes["data"] == "f54d01775f5421b170e4eddde6435a7c"


def test_copies_are_never_on_both_sides(tmp_path):
    text = (LIBRARY / "argparse.py").read_text(encoding="utf-8")[:20_000]
    folder = tmp_path / "copies"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    prepared = prepare(config_of(tmp_path, folder))
    train, validation = text_of(prepared, "train"), text_of(prepared, "validation")
    assert len(set(train)) == len(set(validation)) == 1
    assert (len(train), len(validation)) == (3, 3)
    assert train[0] + validation[0] == text


def test_an_interrupted_preparation_goes_on_with_the_same_cut(tmp_path):
    (tmp_path / "a.txt").write_bytes((LIBRARY / "argparse.py").read_bytes())
    first = prepare(config_of(tmp_path, tmp_path / "a.txt", name="whole"), shard_tokens=5_000)
    again = config_of(tmp_path, tmp_path / "a.txt", name="cut")
    second = prepare(again, shard_tokens=5_000)
    (second.dir / "manifest.json").unlink()
    for shard in ("00002", "00003"):
        (second.dir / "train" / f"{shard}.tokens").unlink()
    assert prepare(again, shard_tokens=5_000).hashes == first.hashes


def test_one_line_of_token_ids_is_cut(tmp_path):
    ids = list(range(1000))
    (tmp_path / "a.jsonl").write_text(json.dumps({"token_ids": ids}), encoding="utf-8")
    prepared = prepare(
        TokenizedData(
            train=str(tmp_path / "a.jsonl"),
            vocab_size=1000,
            add_eos=False,
            prepared_dir=str(tmp_path / "prepared"),
        )
    )
    assert prepared.tokens("train")[:].tolist() == ids[:950]
    assert prepared.tokens("validation")[:].tolist() == ids[950:]


def test_few_rationales(tmp_path):
    made = rows(4)
    prepared = prepare(rationale_config(tmp_path, made + made[-1:], validation=None))
    assert prepared.manifest["splits"]["train"]["documents"] == 3
    assert prepared.manifest["splits"]["validation"]["documents"] == 2
    assert prepared.manifest["held_out"] == "last_share"
    with pytest.raises(ValueError, match=r"leaves none for validation, because there is so little"):
        prepare(rationale_config(tmp_path, made[:1] * 3, validation=None, name="one"))


def test_last_of_keys():
    assert last_share_of("abcab", 0.05) == {"c"}
    assert last_share_of("abcd", 0.9) == {"b", "c", "d"}
    assert last_share_of("aaa", 0.5) == set()
    assert last_share_of("", 0.5) == set()


def split_of(documents, share):
    outline = Outline()
    chunks = [chunk for text in documents for chunk in document_chunks(text)]
    for chunk in chunks:
        outline.add(chunk)
    found = {"train": [b""], "validation": [b""]}
    previous = None
    for split, chunk, begins in outline.last_share(share).route(iter(chunks)):
        assert chunk.content
        # A document's chunks are one run in one split.
        assert begins == (previous is None or previous[1] or previous[0] != split)
        assert not (previous and previous[0] != split and not previous[1])
        found[split][-1] += chunk.content
        if chunk.ends_document:
            found[split].append(b"")
        previous = split, chunk.ends_document
    assert all(parts.pop() == b"" for parts in found.values())
    return found["train"], found["validation"]


def test_any_cut_keeps_the_text_and_the_share():
    generator = random.Random(0)
    alphabet = ["a", "b", "é", "五", " ", "  ", "\n", "\n\n", "\r\n\r\n", "𝄞"]
    for _ in range(400):
        count = generator.choice([1, 1, 2, 5])
        length = generator.choice([9, 60, 3_000, 80_000])
        documents = [
            "".join(generator.choices(alphabet, k=generator.randrange(2, length))).encode()
            for _ in range(count)
        ]
        share = generator.choice([0.01, 0.05, 0.5, 0.97])
        train, validation = split_of(documents, share)
        total = sum(map(len, set(documents)))
        assert train
        assert validation
        for part in train + validation:
            part.decode()
        if len(set(documents)) == count:
            assert b"".join(train + validation) == b"".join(documents)
            allowed = max(0.5 * min(share, 1 - share) * total, 4) + 2
            assert abs(sum(map(len, validation)) - share * total) <= allowed
        else:
            assert not set(train) & set(validation)


@pytest.mark.parametrize(
    ("text", "head"),
    [
        ("a" * 94 + "\n\nbbbb", "a" * 94 + "\n\n"),
        ("a" * 93 + "\n\n\r\n  \nbb", "a" * 93 + "\n\n\r\n  \n"),
        ("a" * 93 + " \nbb bb", "a" * 93 + " \n"),
        ("a" * 93 + "   bb", "a" * 93),
        ("a" * 100, "a" * 95),
        ("五" * 33, "五" * 31),
    ],
)
def test_the_best_boundary_near_the_share_is_taken(text, head):
    train, _ = split_of([text.encode()], 0.05)
    assert train[0].decode() == head


def test_a_border_of_documents_is_taken_where_it_is_near():
    assert split_of([b"a" * 93, b"b" * 7], 0.05) == ([b"a" * 93], [b"b" * 7])
    assert split_of([b"a" * 97, b"b" * 3], 0.05) == ([b"a" * 97], [b"b" * 3])
    assert split_of([b"a" * 50, b"b" * 50], 0.05) == ([b"a" * 50, b"b" * 45], [b"b" * 5])


def test_what_cannot_be_cut_is_not():
    outline = Outline()
    outline.add(Chunk(b"a", True))
    assert [r.split for r in outline.last_share(0.05).route(iter([Chunk(b"a", True)]))] == ["train"]
