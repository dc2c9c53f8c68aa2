"""Prepared data are reused for the same input, and refused or made anew for other."""

import os
import subprocess
import sys
import textwrap

import pytest
from preparing import (
    config_for,
    prepare,
    snapshot,
)

from mobilellm.data import (
    open_prepared,
)
from mobilellm.data.resolved import resolve_data
from mobilellm.data.tokenizers.sentencepiece_training import train_sentencepiece


def test_finished_data_is_reused_and_not_built_again(corpus, monkeypatch):
    first = prepare(config_for(corpus))
    before = snapshot(first.dir)
    monkeypatch.delattr("mobilellm.data.preparation.prepare.build_contents")
    again = prepare(config_for(corpus, workers=3, document_mask=True))
    assert again.manifest == first.manifest
    assert snapshot(first.dir) == before
    opened = open_prepared(config_for(corpus))
    assert opened is not None
    assert opened.hashes == first.hashes


def test_reuse_does_not_import_datasets_or_torch(corpus):
    prepare(config_for(corpus))
    code = f"""
        import sys
        from mobilellm.data import TextData, prepare_data
        prepared = prepare_data(TextData(
            train={str(corpus / "train")!r}, validation={str(corpus / "validation")!r},
            vocab_size=400, prepared_dir={str(corpus.parent / "prepared")!r}))
        prepared.tokens("train")[:10], prepared.token_bytes
        print(sorted({{"torch", "datasets", "sentencepiece", "rich"}} & set(sys.modules)))
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    assert found.stdout.strip() == "[]"


def test_copied_and_touched_files_are_the_same_input(corpus):
    prepare(config_for(corpus))
    for file in (corpus / "train").iterdir():
        os.utime(file, (1, 1))
    assert open_prepared(config_for(corpus)) is not None
    moved = corpus.rename(corpus.parent / "moved")
    same = config_for(corpus, train=str(moved / "train"), validation=str(moved / "validation"))
    assert open_prepared(same) is not None


def test_nothing_prepared_is_none(corpus):
    assert open_prepared(config_for(corpus)) is None


def test_changed_input_is_refused(corpus):
    prepared = prepare(config_for(corpus))
    before = snapshot(prepared.dir)

    def refused(message, **kwargs):
        config = config_for(corpus, dir=str(prepared.dir), **kwargs)
        for action in (prepare, open_prepared):
            with pytest.raises(ValueError, match="was prepared from different inputs: " + message):
                action(config)

    ending = "; choose another data.dir .* or remove that folder$"
    refused("data.document was file, now line" + ending, document="line")
    refused("data.vocab_size was 400, now 500", vocab_size=500)
    refused("data.tokenizer_sample_megabytes was 16.0, now 1", tokenizer_sample_megabytes=1)
    refused("data.add_eos was True, now False", add_eos=False)
    refused("data.held_out was 0.0, now 0.05; data.validation had 1 files, now 0", validation=None)
    other = corpus.parent / "other.model"
    other.write_bytes(train_sentencepiece([(corpus / "train" / "queue.txt").read_bytes()], 400))
    refused(".*data.tokenizer had 0 files, now 1", tokenizer=str(other))
    file = corpus / "train" / "queue.txt"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("queue", "Queue", 1), encoding="utf-8")
    refused("data.train: .*queue.txt has different contents" + ending)
    file.write_text(text, encoding="utf-8")
    assert open_prepared(config_for(corpus)) is not None
    (corpus / "train" / "more.txt").write_text("more", encoding="utf-8")
    refused("data.train had 10 files, now 11")
    assert snapshot(prepared.dir) == before


def test_same_input_gives_the_same_hashes_anywhere(corpus):
    one = prepare(config_for(corpus, dir=str(corpus.parent / "one"), workers=1))
    two = prepare(config_for(corpus, dir=str(corpus.parent / "two"), workers=2), shard_tokens=999)
    assert one.hashes == two.hashes
    other = prepare(config_for(corpus, dir=str(corpus.parent / "three"), vocab_size=500))
    # The text is the same whatever the tokenizer.
    assert other.hashes["data"] == one.hashes["data"]
    assert all(other.hashes[key] != one.hashes[key] for key in ("tokenizer", "train", "validation"))


def test_the_folders_own_tokenizer_given_by_name_reuses_the_folder(corpus):
    first = prepare(config_for(corpus))
    copied = corpus.parent / "copy.model"
    copied.write_bytes(first.tokenizer_path.read_bytes())
    again = config_for(corpus, tokenizer=str(copied))
    assert resolve_data(again).folder == first.dir
    before = snapshot(first.dir)
    assert prepare(again).dir == first.dir
    assert snapshot(first.dir) == before
    with pytest.raises(ValueError, match=r"data.add_eos was True, now False"):
        prepare(config_for(corpus, tokenizer=str(copied), add_eos=False))


def test_another_tokenizer_gets_a_folder_of_its_own(corpus):
    other = prepare(config_for(corpus, vocab_size=500))
    unfinished = config_for(corpus, vocab_size=500, tokenizer=str(other.tokenizer_path), name="new")
    given = prepare(unfinished)
    assert given.dir.name.startswith("new-")
    own = prepare(config_for(corpus, vocab_size=500, max_megabytes=0.2, name="new"))
    assert own.dir.name == "new-500" != given.dir.name
    assert given.hashes == other.hashes


def test_an_existing_tokenizer_is_used(corpus):
    first = prepare(config_for(corpus))
    config = config_for(corpus, tokenizer=str(first.tokenizer_path), name="again")
    again = prepare(config)
    assert again.hashes == first.hashes
    assert again.manifest["tokenizer_sample_bytes"] is None
    padded = config_for(corpus, tokenizer=str(first.tokenizer_path), vocab_size=448, name="again")
    # A model with more embedding rows reads the same data.
    assert resolve_data(padded).folder == resolve_data(config).folder
    assert prepare(padded).hashes == first.hashes
    with pytest.raises(ValueError, match=r"has 400 tokens, more than the model's vocab_size=300"):
        prepare(config_for(corpus, tokenizer=str(first.tokenizer_path), vocab_size=300))
    with pytest.raises(FileNotFoundError, match=r"data.tokenizer=nowhere does not exist; give"):
        prepare(config_for(corpus, tokenizer="nowhere", name="b"))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"train": "nowhere"}, FileNotFoundError, "data.train=nowhere does not exist in"),
        ({"validation": "nowhere"}, FileNotFoundError, "data.validation=nowhere does not exist"),
        ({"train": "EMPTY"}, ValueError, "data.train=.* is empty: 1 files of 0 bytes"),
        (
            {"train": "BLANK", "document": "line"},
            ValueError,
            "no text in data.train; give",
        ),
        (
            {"validation": "BLANK", "document": "line"},
            ValueError,
            "no text in data.validation",
        ),
        ({"train": "LATIN"}, ValueError, r"latin.txt is not UTF-8: byte 0xe9 at offset 3"),
        ({"validation": "LATIN"}, ValueError, r"latin.txt is not UTF-8: byte 0xe9 at offset 3"),
        (
            {"document": "^nomatch"},
            ValueError,
            r"'\^nomatch' matches no line of the text",
        ),
        (
            {"train": "ONE", "validation": None},
            ValueError,
            r"held_out=0.05 of the text in data.train leaves none for validation, because there is "
            "so little of it; give more text, or a validation split",
        ),
        (
            {"vocab_size": 60_000},
            ValueError,
            "vocab_size=60000 is too large for the .* of text",
        ),
    ],
)
def test_bad_input_stops_before_anything_is_tokenized(corpus, tmp_path, change, error, message):
    files = {"EMPTY": b"", "BLANK": b"\n \n", "LATIN": b"caf\xe9", "ONE": b"1"}
    for name, content in files.items():
        (tmp_path / f"{name.lower()}.txt").write_bytes(content)
    change = {
        key: str(tmp_path / f"{value.lower()}.txt") if value in files else value
        for key, value in change.items()
    }
    config = config_for(corpus, **change)
    with pytest.raises(error, match=message):
        prepare(config)
    assert not list(tmp_path.glob("prepared/*/*/*.tokens"))
    assert open_prepared(config_for(corpus, name="fresh")) is None


def test_a_folder_with_other_files_is_left_alone(corpus, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "tokenizer.model").write_text("precious", encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine holds other files, such as tokenizer.model"):
        prepare(config_for(corpus, dir=str(tmp_path / "mine")))
    file = tmp_path / "mine" / "tokenizer.model"
    for folder in (file, file / "inner"):
        with pytest.raises(ValueError, match=r"tokenizer.model is a file, not a folder; give anot"):
            prepare(config_for(corpus, dir=str(folder)))
    with pytest.raises(ValueError, match=r"data.dir=/proc/data/name-400 cannot be written \("):
        prepare(config_for(corpus, prepared_dir="/proc/data", name="name"))
    assert (tmp_path / "mine" / "tokenizer.model").read_text(encoding="utf-8") == "precious"
