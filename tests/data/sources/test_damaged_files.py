"""Damaged, mistaken and unusual input files: one line that names the file, and what to do."""

import bz2
import gzip
import json
import lzma

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from preparing import config_for, prepare
from question_rows import prepare as prepare_rationales
from test_sources import TEXTS, documents, write_jsonl, write_parquet

from mobilellm.data import JsonlData, ParquetData, TextData, TokenizedData, open_prepared

TEXT = "Some text.\n" * 5_000


def zstd(content):
    return pa.compress(content, codec="zstd", asbytes=True)


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}


@pytest.mark.parametrize("ending", PACKERS)
def test_packed_text(tmp_path, ending):
    path = tmp_path / f"a.txt.{ending}"
    path.write_bytes(PACKERS[ending](TEXT.encode()))
    assert documents(TextData(train=str(path), vocab_size=300)) == [TEXT]
    rows = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (tmp_path / f"a.jsonl.{ending}").write_bytes(PACKERS[ending](rows.encode()))
    assert documents(JsonlData(train=str(tmp_path), vocab_size=300)) == TEXTS


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("damage", ["cut short", "other bytes", "nothing"])
def test_damaged_packed_files(tmp_path, ending, damage):
    packed = PACKERS[ending](TEXT.encode())
    content = {"cut short": packed[:-12], "other bytes": b"text " * 40, "nothing": b"\0"}[damage]
    for kind, data in (("txt", TextData), ("jsonl", JsonlData)):
        path = tmp_path / kind / f"a.{kind}.{ending}"
        path.parent.mkdir()
        path.write_bytes(content)
        message = rf"{path.name} is damaged, truncated or not compressed with \w+ \(.*\); download"
        with pytest.raises(ValueError, match=message):
            documents(data(train=str(path.parent), vocab_size=300))


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ("é\n".encode("utf-16"), "it is UTF-16; convert it with `iconv -f utf-16 -t utf-8`"),
        ("é\n".encode("utf-32"), "it is UTF-32; convert it with `iconv -f utf-32 -t utf-8`"),
        ("Text: é\n".encode("utf-16le"), "convert it with `iconv -f utf-16le -t utf-8`"),
        ("Text: é\n".encode("utf-16be"), "convert it with `iconv -f utf-16be -t utf-8`"),
        ("é\n".encode("latin1"), "for instance with `iconv -f latin1 -t utf-8`, or leave"),
        (gzip.compress(b"text", mtime=0), "it is compressed with gzip; its name must end in .gz"),
        (zstd(b"text"), "it is compressed with zstd; its name must end in .zst"),
    ],
)
def test_what_is_not_utf8_gets_the_fitting_remedy(tmp_path, content, remedy):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.txt is not UTF-8: byte .*; ") as caught:
        documents(TextData(train=str(tmp_path), vocab_size=300))
    assert remedy in str(caught.value)
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.jsonl line 1 is not") as caught:
        documents(JsonlData(train=str(tmp_path / "a.jsonl"), vocab_size=300))
    assert remedy in str(caught.value) or "is not JSON" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, r"a.jsonl line 1 holds lists or objects nested too deeply"),
        ('{"text": ' + "[" * 100_000, r"a.jsonl line 1 holds lists or objects nested too deeply"),
        ('{"text": "", "n": ' + "9" * 5_000 + "}", r"a.jsonl line 1 cannot be read \(Exceeds the"),
        ('[{"text": "a"}]', r"line 1 is a JSON list, .* the file is a JSON array: write one"),
        ('[\n{"text": "a"},\n', r"line 1 is not JSON .* the file is a JSON array: write one"),
        (
            '{\n"text": "a"\n}',
            r"line 1 is not JSON .* an object extends over several lines: write one",
        ),
        ('{"text": "a"}\n[1]', r"line 2 is a JSON list, .*; correct or remove the line"),
    ],
)
def test_what_is_no_json_lines(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        documents(JsonlData(train=str(tmp_path), vocab_size=300))


@pytest.mark.parametrize("ids", [None, {"a": 1}, [None], [[1], [2, 3]], [2**63], False])
def test_rows_that_are_no_token_ids(tmp_path, ids):
    path = write_jsonl(tmp_path / "a.jsonl", [{"token_ids": [1]}, {"token_ids": ids}])
    with pytest.raises(ValueError, match=r"a.jsonl line 2 must hold a list of token ids in column"):
        documents(TokenizedData(train=path, vocab_size=300))


def parquet(path):
    return ParquetData(train=str(path), vocab_size=300)


def test_parquet_files_are_read_one_by_one(tmp_path):
    folder = tmp_path / "part[1]*"
    folder.mkdir()
    write_parquet(folder / "a.parquet", {"text": TEXTS})
    write_parquet(folder / "b.parquet", {"text": pa.array([], pa.string())})
    write_parquet(folder / "c.parquet", {"n": [1], "text": pa.array(["large"], pa.large_string())})
    write_parquet(folder / "d.parquet", {"text": pa.array(["twice", "twice"]).dictionary_encode()})
    write_parquet(folder / "e.parquet", {"text": pa.array([], pa.null())})
    expected = [*TEXTS, "large", "twice", "twice"]
    assert documents(parquet(folder)) == expected
    assert documents(parquet(folder / "a.parquet")) == TEXTS
    assert documents(parquet(folder / "b.parquet")) == []
    pq.write_table(pa.table({"text": [str(n) for n in range(1000)]}), tmp_path / "many.parquet")
    assert documents(parquet(tmp_path / "many.parquet")) == [str(n) for n in range(1000)]


def test_parquet_columns_and_rows_that_are_no_text(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"text": TEXTS})
    write_parquet(tmp_path / "b.parquet", {"text": [1, 2], "body": ["x", "y"]})
    with pytest.raises(ValueError, match=r"b.parquet holds int64 in column 'text', .* one of body"):
        documents(parquet(tmp_path))
    write_parquet(tmp_path / "b.parquet", {"text": ["fine", None]})
    with pytest.raises(ValueError, match=r"row 1 of .*b.parquet holds NoneType in column 'text'"):
        documents(parquet(tmp_path))


def test_damaged_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": TEXTS * 500}), path, use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[20:600] = bytes(580)
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"a.parquet is damaged in column 'text' \(.*\); download it"
    ):
        documents(parquet(path))
    path.write_bytes(content[:-30])
    with pytest.raises(ValueError, match=r"a.parquet is not a Parquet file \(.*\); leave it out"):
        documents(parquet(path))


def changed(record, path, value):
    *parents, last = path
    for key in parents:
        record = record[key]
    if value is None:
        del record[last]
    else:
        record[last] = value


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (["inputs"], None, r"inputs is missing"),
        (["inputs", "files", "train", 0, "hash"], None, r"inputs.files.train\[0\].hash is missing"),
        (["inputs", "options"], [1], r"inputs.options is \[1\], which must be an object"),
        (["splits", "train", "tokens"], "many", r'splits.train.tokens is "many"'),
        (["vocab_size"], True, r"vocab_size is true"),
        (["hashes"], None, r"hashes is missing"),
        (["baselines", "bigram_nats_per_token"], None, r"baselines.bigram_nats.* is missing"),
    ],
)
def test_damaged_fields_of_a_manifest(corpus, path, value, fault):
    prepared = prepare(config_for(corpus))
    file = prepared.dir / "manifest.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    changed(record, path, value)
    file.write_text(json.dumps(record), encoding="utf-8")
    for action in (open_prepared, prepare):
        with pytest.raises(ValueError, match=rf"manifest.json is damaged \({fault}.*\); remove .*"):
            action(config_for(corpus))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("name", ["manifest.json", "inputs.json"])
def test_records_that_are_no_json(tmp_path, name, content):
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    folder = tmp_path / "prepared"
    folder.mkdir()
    (folder / name).write_bytes(content)
    config = TextData(train=str(tmp_path / "a.txt"), vocab_size=400, dir=str(folder))
    with pytest.raises(ValueError, match=rf"{name} is damaged \(.*\); remove .*prepared to "):
        prepare(config)
    assert (folder / name).read_bytes() == content


def test_damaged_places_of_documents(corpus):
    prepared = prepare(config_for(corpus))
    path = prepared.dir / "train" / "00000.documents"
    whole = path.read_bytes()
    stream = prepared.tokens("train")
    for content in (
        whole[:-3],
        whole[8:],
        whole[:8] + whole[:8],
        whole + np.array([2**40], "<u8").tobytes(),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"00000.documents is damaged \(.*\); remove .*-400"):
            stream.document_starts()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"00000.documents is missing; remove .*-400 to"):
        stream.document_starts()


def test_damaged_byte_counts(corpus):
    prepared = prepare(config_for(corpus))
    path = prepared.dir / "token_bytes.npy"
    whole = path.read_bytes()
    for content in (b"", b"damaged", whole[:-4]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"token_bytes.npy is damaged \(.*\); remove .*-400"):
            _ = open_prepared(config_for(corpus)).token_bytes


def test_damaged_choices(tmp_path):
    prepared = prepare_rationales(tmp_path)
    for content in ("{", "[]", '[["a"]]'):
        (prepared.dir / "choices.json").write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=r"choices.json is damaged \(.*\); remove .*words-300"):
            prepared.questions()
