import gzip
import json
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from mobilellm.data import (
    HubData,
    JsonlData,
    Mixture,
    MixtureData,
    ParquetData,
    StandardLibrary,
    StandardLibraryData,
    TextData,
    TextFiles,
    TokenizedData,
    TokenizedJsonlFiles,
)
from mobilellm.data.resolved import data_name, resolve_data

TEXTS = ["one two", "three\nfour\r\n", "五 six", "  seven  "]


def documents(source, split="train"):
    found, parts = [], []
    for chunk in source.chunks(split):
        parts.append(chunk.content)
        if chunk.ends_document:
            found.append(parts[0] if not isinstance(parts[0], bytes) else b"".join(parts).decode())
            parts = []
    assert not parts
    return found


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_parquet(path, columns):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return str(path)


def test_jsonl_rows_are_documents(tmp_path):
    rows = [{"text": text, "n": i, "mixed": i if i % 2 else "x"} for i, text in enumerate(TEXTS)]
    path = write_jsonl(tmp_path / "a.jsonl", [*rows, {"text": ""}])
    with Path(path).open("a", encoding="utf-8") as file:
        file.write("\n\n")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"text": "packed"}))
    assert documents(JsonlData(train=path, vocab_size=300)) == TEXTS
    assert documents(JsonlData(train=str(tmp_path), vocab_size=300)) == [*TEXTS, "packed"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{broken", r"a.jsonl line 3 is not JSON \(.* at column 2\); correct or remove the line"),
        (b"[1, 2]", r"a.jsonl line 3 is a JSON list, which must be an object"),
        (b'{"other": 1}', r"a.jsonl line 3 has no column 'text'; set data.column to one of other"),
        (b'{"text": 7}', r"a.jsonl line 3 holds int in column 'text', which must be text"),
        (b'{"text": null}', r"a.jsonl line 3 holds NoneType in column 'text'"),
        (b'{"text": "\\ud800"}', r"a.jsonl line 3 holds the lone surrogate '\\ud800'"),
        (b'{"text": "\xe9"}', r"a.jsonl line 3 is not UTF-8: byte 0xe9 at its column 11"),
    ],
)
def test_broken_jsonl_lines_are_named(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n\n' + line + b"\n")
    with pytest.raises(ValueError, match=message):
        documents(JsonlData(train=str(tmp_path / "a.jsonl"), vocab_size=300))


def test_other_columns(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"body": text} for text in TEXTS])
    assert documents(JsonlData(train=path, column="body", vocab_size=300)) == TEXTS


def test_parquet_rows_are_documents(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", {"body": TEXTS, "n": [1, 2, 3, 4]})
    assert documents(ParquetData(train=path, column="body", vocab_size=300)) == TEXTS
    with pytest.raises(ValueError, match=r"a.parquet has no column 'text'; set .* one of body, n"):
        documents(ParquetData(train=path, vocab_size=300))
    with pytest.raises(
        ValueError, match=r"a.parquet holds int64 in column 'n', which must be text; set"
    ):
        documents(ParquetData(train=path, column="n", vocab_size=300))
    (tmp_path / "b.parquet").write_text("no parquet", encoding="utf-8")
    with pytest.raises(ValueError, match=r"b.parquet is not a Parquet file \(.*\); leave it out"):
        documents(ParquetData(train=str(tmp_path / "b.parquet"), vocab_size=300))


@pytest.mark.parametrize("streaming", [True, False])
def test_hub_layout(tmp_path, streaming, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "dataset"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", [{"text": text} for text in TEXTS])
    write_jsonl(folder / "validation.jsonl", [{"text": "held out"}])
    data = HubData(
        dataset_name=str(folder),
        validation_split="validation",
        streaming=streaming,
        vocab_size=300,
    )
    assert data_name(data) == "dataset"
    assert documents(data) == TEXTS
    assert documents(data, "validation") == ["held out"]
    with pytest.raises(ValueError, match=r"has no column 'content'; set .* one of text"):
        documents(HubData(dataset_name=str(folder), column="content", vocab_size=300))


def test_hub_rows_can_be_joined_to_documents(tmp_path):
    lines = [" = A = \n", "", " text \n", " = = B = = \n", " = C = \n", " end"]
    folder = tmp_path / "wiki"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", [{"text": line} for line in lines])
    data = HubData(dataset_name=str(folder), document="^ = [^=].* = $", vocab_size=300)
    assert documents(data) == ["".join(lines[:4]), "".join(lines[4:])]


def test_hub_datasets_that_cannot_be_loaded(tmp_path):
    data = HubData(dataset_name=str(tmp_path / "nothing"), vocab_size=300)
    with pytest.raises(
        (ValueError, ConnectionError), match=r"nothing' cannot be loaded .* check the"
    ):
        documents(data)


def test_token_ids(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"token_ids": ids} for ids in ([1, 5, 2], [], [9])])
    found = documents(TokenizedData(train=path, vocab_size=300))
    assert [ids.tolist() for ids in found] == [[1, 5, 2], [9]]


@pytest.mark.parametrize("ids", ["text", [1.5], [[1], [2]], [-1], [1, "a"], 3, [2**70], [True]])
def test_what_is_no_list_of_token_ids(tmp_path, ids):
    path = write_jsonl(tmp_path / "a.jsonl", [{"token_ids": [1]}, {"token_ids": ids}])
    with pytest.raises(ValueError, match=r"a.jsonl line 2 must hold a list of token ids in column"):
        documents(TokenizedData(train=path, vocab_size=300))


def test_standard_library():
    data = StandardLibraryData(vocab_size=2048)
    files = data.files("train")
    root = Path(sysconfig.get_paths()["stdlib"])
    names = [file.relative_to(root).as_posix() for file in files]
    assert names == sorted(names)
    assert {"argparse.py", "pydoc_data/topics.py", "json/decoder.py"} <= set(names)
    assert not any("site-packages" in name or "/test" in f"/{name}" for name in names)
    assert sum(file.stat().st_size for file in files) > 5e6
    assert len(documents(data)) == sum(file.stat().st_size > 0 for file in files)
    assert resolve_data(data).folder == Path("prepared/stdlib-2048")


def test_mixture_shares_hold_at_any_point(tmp_path):
    generator = np.random.default_rng(0)
    sources, weights = {}, {"a": 3, "b": 1, "c": 0.5}
    for name in weights:
        texts = [name * int(generator.integers(1, 200)) for _ in range(400)]
        path = tmp_path / f"{name}.txt"
        path.write_text("\n".join(texts), encoding="utf-8")
        sources[name] = TextFiles(train=str(path), document="line")
    mixture = Mixture(sources=sources, weights=weights)
    sizes = dict.fromkeys(weights, 0)
    found = documents(mixture)
    for text in found:
        sizes[text[0]] += len(text)
        for name, weight in weights.items():
            share = sum(sizes.values()) * weight / 4.5
            assert abs(sizes[name] - share) <= 2 * 200
    assert sum(text[0] == "a" for text in found) == 400
    assert documents(mixture) == found
    in_order = [text for text in found if text[0] == "b"]
    assert in_order == documents(sources["b"])[: len(in_order)]


def test_mixture_validation_is_all_of_each(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"{name}1\n{name}2", encoding="utf-8")
    sources = {
        name: TextFiles(
            train=str(tmp_path / f"{name}.txt"),
            validation=str(tmp_path / f"{name}.txt"),
            document="line",
        )
        for name in ("a", "b")
    }
    data = MixtureData(sources=sources, weights={"a": 9, "b": 1}, vocab_size=300)
    assert data.has_validation
    assert documents(data, "validation") == ["a1", "a2", "b1", "b2"]


@pytest.mark.parametrize(
    ("sources", "weights", "error", "message"),
    [
        ({}, {}, ValueError, "data.sources is empty; give at least one"),
        ({"a": 3}, {"a": 1}, TypeError, "data.sources.a is a int; give it a _target_ such as"),
        ("one", {"b": 1}, ValueError, "data.weights is given for b, data.sources for a; give one"),
        ("one", {"a": 0}, ValueError, r"data.weights.a=0 must be above 0; remove a source"),
        ("one", {"a": -1.5}, ValueError, r"data.weights.a=-1.5 must be above 0"),
        ("one", {"a": float("nan")}, ValueError, r"data.weights.a=nan must be a finite number"),
        ("tokens", {"a": 1}, ValueError, "data.sources.a has token ids, whose text is not known"),
    ],
)
def test_bad_mixtures(sources, weights, error, message):
    known = {
        "one": {"a": StandardLibrary()},
        "tokens": {"a": TokenizedJsonlFiles(train="x.jsonl")},
    }
    with pytest.raises(error, match=message):
        Mixture(sources=known.get(str(sources), sources), weights=weights)


def test_mixture_of_sources_with_and_without_validation():
    sources = {"a": StandardLibrary(), "b": TextFiles(train="x", validation="y")}
    with pytest.raises(
        ValueError, match=r"data.sources.a has no validation split, but others have"
    ):
        MixtureData(sources=sources, weights={"a": 1, "b": 1}, vocab_size=300)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"vocab_size": 259}, ValueError, "data.vocab_size=259 is too small to train a tokenizer"),
        ({"vocab_size": "2k"}, ValueError, "data.vocab_size='2k' must be a whole number"),
        ({"held_out": 0}, ValueError, "data.held_out=0 must be above 0 and below 1; 0.05"),
        ({"held_out": 0.1, "validation": "b"}, ValueError, "held_out=0.1 and a validation split"),
        ({"workers": 0}, ValueError, "data.workers=0 must be a whole number of at least 1"),
        ({"max_megabytes": 0}, ValueError, "data.max_megabytes=0 must be above 0"),
        ({"tokenizer_sample_megabytes": -1}, ValueError, "sample_megabytes=-1 must be above 0"),
        ({"document": "("}, ValueError, r"data.document='\(' is not a regular expression"),
        (
            {"document_mask": True, "add_eos": False, "add_bos": False},
            ValueError,
            "document_mask=true finds doc",
        ),
        (
            {"train": 3},
            ValueError,
            "data.train=3 must be text or a list in which each item is text",
        ),
        ({"train": []}, TypeError, r"data.train=\[\] must be a path or a list of paths"),
        ({"train": [""]}, ValueError, "data.train has an empty path"),
    ],
)
def test_bad_configurations(kwargs, error, message):
    with pytest.raises(error, match=message):
        TextData(**{"train": "a.txt", "vocab_size": 300, **kwargs})


def test_default_names_and_folders(tmp_path):
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("a", encoding="utf-8")

    def data(path, **kwargs):
        return TextData(train=str(path), vocab_size=300, **kwargs)

    assert data_name(data(tmp_path / "books")) == "books"
    assert data_name(data(tmp_path / "books" / "a.txt")) == "books-a"
    pair = {"validation": str(tmp_path / "books" / "a.txt")}
    assert data_name(data(tmp_path / "books" / "a.txt", **pair)) == "books"
    assert data_name(data(f"{tmp_path}/books/*.txt")) == "books"
    assert resolve_data(data(tmp_path / "books", name="mine")).folder == Path("prepared/mine-300")
    assert resolve_data(data(tmp_path / "books", dir="elsewhere")).folder == Path("elsewhere")
    assert resolve_data(data(tmp_path / "books", prepared_dir="p")).folder == Path("p/books-300")
