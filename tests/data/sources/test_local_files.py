"""Which files a path stands for, and what reading them leaves behind."""

import json
import logging
import os
import subprocess
import sys
import textwrap

import pytest
from preparing import LIBRARY
from test_sources import documents, write_parquet

from mobilellm.data import TextData
from mobilellm.data.sources.local_files import find_files


def names(folder):
    return [
        file.relative_to(folder).as_posix() for file in find_files(str(folder), (), "data.train")
    ]


def test_links_to_folders_are_followed(tmp_path):
    for name in ("corpus/b", "elsewhere/deep", "hidden"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("corpus/a.txt", "corpus/b/c.txt", "elsewhere/d.txt", "elsewhere/deep/e.txt"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    (tmp_path / "hidden" / "f.txt").write_text("f", encoding="utf-8")
    corpus = tmp_path / "corpus"
    (corpus / "link").symlink_to("../elsewhere")
    (corpus / "file.txt").symlink_to("../elsewhere/d.txt")
    (corpus / ".link").symlink_to("../hidden")
    # Up again, directly, through another link, and to itself: nothing is there twice.
    (corpus / "b" / "up").symlink_to(corpus)
    (tmp_path / "elsewhere" / "deep" / "up").symlink_to("..")
    (corpus / "b" / "self").symlink_to(".")
    expected = ["a.txt", "b/c.txt", "file.txt", "link/d.txt", "link/deep/e.txt"]
    assert names(corpus) == expected
    (tmp_path / "there").symlink_to(corpus)
    assert names(tmp_path / "there") == expected


def test_a_link_to_nothing_is_told(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    (tmp_path / "gone.txt").symlink_to("nowhere.txt")
    caplog.set_level(logging.WARNING, logger="mobilellm")
    assert names(tmp_path) == ["a.txt"]
    assert "gone.txt, which is a broken link" in caplog.text


def test_paths_with_the_characters_of_patterns(tmp_path):
    folder = tmp_path / "a[1] {b} *?"
    folder.mkdir()
    (folder / "x[y].txt").write_text("text", encoding="utf-8")
    for path in (folder, folder / "x[y].txt"):
        assert documents(TextData(train=str(path), vocab_size=300)) == ["text"]


PREPARE = """
    import sys
    from mobilellm.data import *

    corpus, prepared_dir = sys.argv[1:]
    kinds = {
        "text": lambda **kwargs: TextData(train=corpus + "/a.txt", **kwargs),
        "jsonl": lambda **kwargs: JsonlData(train=corpus + "/a.jsonl", **kwargs),
        "parquet": lambda **kwargs: ParquetData(train=corpus + "/a.parquet", **kwargs),
        "ids": lambda **kwargs: TokenizedData(train=corpus + "/ids.jsonl", **kwargs),
        "mixture": lambda **kwargs: MixtureData(
            sources={"a": TextFiles(train=corpus + "/a.txt", document="line"),
                     "b": JsonlFiles(train=corpus + "/a.jsonl")},
            weights={"a": 1, "b": 1}, **kwargs),
        "rationales": lambda **kwargs: RationaleData(
            train=corpus + "/rows.jsonl", **kwargs),
        "hub": lambda **kwargs: HubData(dataset_name=corpus + "/hub", **kwargs),
    }
    for name, kind in kinds.items():
        config = kind(vocab_size=270, prepared_dir=prepared_dir, name=name)
        print(name, prepare_data(config, progress=False).manifest["splits"]["train"]["tokens"])
"""


def test_files_of_json_lines_are_not_read_as_text_by_mistake(tmp_path):
    for name in ("rows.jsonl", "more.jsonl.gz", "notes.txt"):
        (tmp_path / name).write_text('{"text": "one"}\n', encoding="utf-8")
    rows = [str(tmp_path / "rows.jsonl"), str(tmp_path / "more.jsonl.gz")]
    for given in (rows, rows[0]):
        with pytest.raises(ValueError, match=r"rows.jsonl has JSON lines, .* use data=jsonl, or r"):
            TextData(train=given, vocab_size=300).files("train")
    assert len(TextData(train=str(tmp_path), vocab_size=300).files("train")) == 3


def test_a_home_folder_that_cannot_be_written(tmp_path):
    corpus = tmp_path / "corpus"
    (corpus / "hub").mkdir(parents=True)
    text = (LIBRARY / "argparse.py").read_text(encoding="utf-8")[:40_000]
    lines = [line for line in text.splitlines() if line.strip()]
    (corpus / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    rows = "".join(json.dumps({"text": line}) + "\n" for line in lines)
    for name in ("a.jsonl", "hub/train.jsonl"):
        (corpus / name).write_text(rows, encoding="utf-8")
    (corpus / "rows.jsonl").write_text(
        "".join(
            json.dumps({"input": line, "label": "yes", "rationale": "why"}) + "\n" for line in lines
        ),
        encoding="utf-8",
    )
    (corpus / "ids.jsonl").write_text(json.dumps({"token_ids": list(range(200))}), encoding="utf-8")
    write_parquet(corpus / "a.parquet", {"text": lines})
    kept = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PREPARE), corpus, tmp_path / "prepared"],
        env={**environment, "HOME": "/dev/null/nobody"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 7
    assert (tmp_path / "prepared" / ".huggingface").is_dir()


def test_the_hub_without_network_is_given_up_at_once():
    # Port 9 of this machine refuses connections, as a machine without network does.
    code = """
        import logging
        logging.basicConfig(level=logging.WARNING)
        from mobilellm.data import HubData
        try:
            next(HubData(dataset_name="owner/name", vocab_size=300).chunks("train"))
        except ConnectionError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )
    assert (
        "data.dataset_name='owner/name' cannot be loaded (http://127.0.0.1:9 cannot be reached"
        in (done.stdout)
    )
    assert "use a local copy" in done.stdout
    # The library's five pauses of 1 to 8 seconds each are told.
    assert "Retrying" not in done.stderr
