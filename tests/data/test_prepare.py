import errno
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from sentencepiece import SentencePieceProcessor

from mobilellm.data import (
    JsonlData,
    TextData,
    TokenizedData,
    open_prepared,
    prepare_data,
)
from mobilellm.data.overview import overview
from mobilellm.data.splitting import routed_pieces
from mobilellm.data.windows import WindowDataset

LIBRARY = Path(random.__file__).parent
MODULES = [
    "abc",
    "bisect",
    "calendar",
    "copy",
    "glob",
    "queue",
    "random",
    "shlex",
    "textwrap",
    "uuid",
]


@pytest.fixture
def corpus(tmp_path):
    """Ten files for training, one for validation."""
    for split, names in (("train", MODULES), ("validation", ["heapq"])):
        folder = tmp_path / "corpus" / split
        folder.mkdir(parents=True)
        for name in names:
            (folder / f"{name}.txt").write_bytes((LIBRARY / f"{name}.py").read_bytes())
    return tmp_path / "corpus"


def config_for(corpus, **kwargs):
    folder = corpus.parent / "prepared"
    settings = {
        "train": str(corpus / "train"),
        "validation": str(corpus / "validation"),
        "vocab_size": 400,
        "prepared_dir": str(folder),
    }
    return TextData(**{**settings, **kwargs})


def prepare(config, **kwargs):
    return prepare_data(config, progress=False, **kwargs)


def naive_stream(prepared, texts, eos=(2,)):
    processor = SentencePieceProcessor(model_file=str(prepared.tokenizer_path))
    return [token for text in texts for token in (*processor.encode(text), *eos)]


def read_all(folder):
    return [file.read_bytes() for file in sorted(folder.iterdir())]


def snapshot(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def finished_shards(folder):
    return {path: at for path, at in snapshot(folder).items() if path.suffix == ".tokens"}


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
        assert prepared.bytes_of(stream[:]) == sum(map(len, texts))
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
    assert prepared.bytes_of(labels) == len(text.encode()) - prepared.bytes_of(np.array(first))


def test_finished_data_is_reused_at_once(corpus):
    first = prepare(config_for(corpus))
    before = snapshot(first.dir)
    started = time.perf_counter()
    again = prepare(config_for(corpus, workers=3, document_mask=True))
    assert time.perf_counter() - started < 0.5
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
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
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
            with pytest.raises(ValueError, match="was prepared from other input: " + message):
                action(config)

    ending = "; choose another data.dir .* or remove that folder$"
    refused("data.document was file, now line" + ending, document="line")
    refused("data.vocab_size was 400, now 500", vocab_size=500)
    refused("data.tokenizer_sample_megabytes was 16.0, now 1", tokenizer_sample_megabytes=1)
    refused("data.add_eos was True, now False", add_eos=False)
    refused("data.held_out was 0.0, now 0.05; data.validation had 1 files, now 0", validation=None)
    other = corpus.parent / "other.model"
    other.write_bytes(prepared.tokenizer_path.read_bytes() + b"x")
    refused(".*data.tokenizer had 0 files, now 1", tokenizer=str(other))
    file = corpus / "train" / "queue.txt"
    text = file.read_text()
    file.write_text(text.replace("queue", "Queue", 1))
    refused("data.train: .*queue.txt has other contents" + ending)
    file.write_text(text)
    assert open_prepared(config_for(corpus)) is not None
    (corpus / "train" / "more.txt").write_text("more")
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
    assert again.folder == first.dir
    before = snapshot(first.dir)
    assert prepare(again).dir == first.dir
    assert snapshot(first.dir) == before
    with pytest.raises(ValueError, match=r"data.add_eos was True, now False"):
        prepare(config_for(corpus, tokenizer=str(copied), add_eos=False))


def test_another_tokenizer_gets_a_folder_of_its_own(corpus):
    other = prepare(config_for(corpus, vocab_size=500))
    unfinished = config_for(corpus, vocab_size=500, tokenizer=str(other.tokenizer_path), name="new")
    assert unfinished.folder.name.startswith("new-")
    assert unfinished.folder.name != "new-500"
    own = prepare(config_for(corpus, vocab_size=500, max_megabytes=0.2, name="new"))
    given = prepare(unfinished)
    assert {own.dir.name, given.dir.name} == {"new-500", unfinished.folder.name}
    assert given.hashes == other.hashes


def test_an_existing_tokenizer_is_used(corpus):
    first = prepare(config_for(corpus))
    config = config_for(corpus, tokenizer=str(first.tokenizer_path), name="again")
    again = prepare(config)
    assert again.hashes == first.hashes
    assert again.manifest["tokenizer_sample_bytes"] is None
    with pytest.raises(ValueError, match=r"has 400 tokens, vocab_size=500; use model.vocab"):
        prepare(config_for(corpus, tokenizer=str(first.tokenizer_path), vocab_size=500))
    with pytest.raises(FileNotFoundError, match=r"data.tokenizer=nowhere does not exist; give"):
        prepare(config_for(corpus, tokenizer="nowhere", name="b"))


def test_held_out_documents_are_stable(tmp_path):
    def split_of(texts, share):
        (tmp_path / "a.txt").write_text("\n".join(texts))
        config = TextData(
            train=str(tmp_path / "a.txt"), document="line", held_out=share, vocab_size=300
        )
        return {routed.piece.content.decode(): routed.split for routed in routed_pieces(config)}

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
            "\n".join(json.dumps({"token_ids": row}) for row in rows)
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
    with pytest.raises(ValueError, match="from token ids, whose bytes are not known; give"):
        prepared.bytes_of(np.array([5]))
    ended = prepare(data(add_eos=True, name="ended"))
    assert ended.tokens("train")[:12].tolist() == [5, 6, 2, 7, 2, 8, 2, 9, 9, 9, 2, 5]
    assert any("the text came as token ids" in line for line in overview(prepared))
    (tmp_path / "train.jsonl").write_text('{"token_ids": [5, 70000]}')
    with pytest.raises(ValueError, match="token id 70000 in document 1 of train is not below"):
        prepare(data(name="large"))


def test_ids_with_their_tokenizer_have_bytes(corpus, tmp_path):
    from_text = prepare(config_for(corpus))
    for split in ("train", "validation"):
        ids = from_text.tokens(split)[:].tolist()
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"token_ids": ids}))
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
    (corpus / "train" / "marks.txt").write_text("a\u2581b \u2581 " * 10)
    prepared = prepare(config_for(corpus))
    assert prepared.manifest["space_marks"] == 20
    sizes = prepared.manifest["splits"]["train"]
    assert sizes["text_bytes"] - sizes["token_bytes"] == 2 * 20
    assert any("20 times U+2581" in line for line in overview(prepared))


def test_overview_says_what_there_is(corpus):
    prepared = prepare(config_for(corpus))
    text = "\n".join(overview(prepared))
    sizes = prepared.manifest["splits"]["train"]
    assert f"{sizes['text_bytes']:,}" in text
    assert f"{sizes['tokens']:,}" in text
    assert "vocabulary  400 tokens, trained on 0.2 of 0.2 MB" in text
    assert f"bigram {prepared.baselines['bigram_nats_per_token']:.3f}" in text
    assert "note" not in text


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"train": "nowhere"}, FileNotFoundError, "data.train=nowhere does not exist in"),
        ({"validation": "nowhere"}, FileNotFoundError, "data.validation=nowhere does not exist"),
        ({"train": "EMPTY"}, ValueError, "data.train=.* is empty: 1 files without a byte"),
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
            r"'\^nomatch' matches the start of nothing",
        ),
        (
            {"train": "ONE", "validation": None},
            ValueError,
            r"held_out=0.05 of 1 documents leaves none for validation; cut documents finer "
            r"\(data.document=blank_line\), choose another data.held_out, or give a validation",
        ),
        (
            {"vocab_size": 60_000},
            ValueError,
            "vocab_size=60000 is too large for the 0.* MB",
        ),
    ],
)
def test_bad_input_stops_before_anything_is_tokenized(corpus, tmp_path, change, error, message):
    files = {"EMPTY": b"", "BLANK": b"\n \n", "LATIN": b"caf\xe9", "ONE": b"one document"}
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
    (tmp_path / "mine" / "tokenizer.model").write_text("precious")
    with pytest.raises(ValueError, match=r"mine holds other files, such as tokenizer.model"):
        prepare(config_for(corpus, dir=str(tmp_path / "mine")))
    with pytest.raises(ValueError, match="is a file; choose a folder"):
        prepare(config_for(corpus, dir=str(tmp_path / "mine" / "tokenizer.model")))
    assert (tmp_path / "mine" / "tokenizer.model").read_text() == "precious"


def full_disk_at(folder, shard):
    (folder / "train").mkdir(parents=True, exist_ok=True)
    (folder / "train" / f"{shard:05d}.tokens.tmp").symlink_to("/dev/full")


def test_a_full_disk_keeps_finished_shards_and_the_next_call_goes_on(corpus):
    config = config_for(corpus)
    whole = prepare(config_for(corpus, name="whole"), shard_tokens=5000)
    # Begin, so that the folder is known, and find the disk full at the third shard.
    with pytest.raises(ValueError, match="UTF-8"):
        (corpus / "train" / "zzz.txt").write_bytes(b"\xff")
        prepare(config)
    (corpus / "train" / "zzz.txt").unlink()
    full_disk_at(config.folder, 2)
    with pytest.raises(
        OSError, match=r"00002.tokens takes 0.0 MB, about .* MB are needed"
    ) as caught:
        prepare(config, shard_tokens=5000)
    assert caught.value.errno == errno.ENOSPC
    kept = finished_shards(config.folder / "train")
    assert [path.name for path in sorted(kept)] == ["00000.tokens", "00001.tokens"]
    assert open_prepared(config) is None
    resumed = prepare(config, shard_tokens=5000)
    assert resumed.hashes == whole.hashes
    assert resumed.manifest["splits"] == whole.manifest["splits"]
    assert kept.items() <= finished_shards(config.folder / "train").items()


def test_unfinished_work_for_other_input_is_started_afresh(corpus):
    config = config_for(corpus)
    full_disk_at(config.folder, 1)
    (config.folder / "inputs.json").write_text("{}")
    with pytest.raises(OSError, match="takes"):
        prepare(config, shard_tokens=5000)
    (corpus / "train" / "abc.txt").unlink()
    resumed = prepare(config, shard_tokens=5000)
    expected = prepare(config_for(corpus, name="other"), shard_tokens=5000)
    assert resumed.hashes == expected.hashes


SCRIPT = """
import signal
import sys
from mobilellm.data import JsonlData, prepare_data
if __name__ == "__main__":
    # Tests started in the background of a shell inherit that Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    train, folder, workers = sys.argv[1:]
    data = JsonlData(train=train, dir=folder, vocab_size=400, workers=int(workers))
    print(prepare_data(data, progress=False, shard_tokens=60_000).hashes["train"])
"""


@pytest.fixture
def large(tmp_path):
    """A corpus that takes some seconds, and a script that prepares it."""
    text = (LIBRARY / "argparse.py").read_text()
    with (tmp_path / "train.jsonl").open("w") as file:
        for number in range(300):
            file.write(json.dumps({"text": f"{number} {text[number:40_000]}"}) + "\n")
    (tmp_path / "prepare.py").write_text(SCRIPT)
    return tmp_path


def start(large, folder, workers):
    return subprocess.Popen(
        [sys.executable, "prepare.py", "train.jsonl", folder, str(workers)],
        cwd=large,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_work_goes_on_and_leaves_no_process(large, how):
    process = start(large, "cut", 2)
    wait_for(lambda: (large / "cut" / "train" / "00001.tokens").exists() or process.poll())
    assert process.poll() is None, process.stderr.read()
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(how)
    process.wait()
    psutil.wait_procs(workers, timeout=30)
    assert not [worker for worker in workers if worker.is_running()]
    assert not (large / "cut" / "manifest.json").exists()
    kept = finished_shards(large / "cut" / "train")
    assert kept
    data = {"train": str(large / "train.jsonl"), "vocab_size": 400, "workers": 1}
    resumed = prepare(JsonlData(dir=str(large / "cut"), **data), shard_tokens=60_000)
    whole = prepare(JsonlData(dir=str(large / "whole"), **data), shard_tokens=60_000)
    assert resumed.hashes == whole.hashes
    assert resumed.manifest["splits"] == whole.manifest["splits"]
    assert kept.items() <= finished_shards(large / "cut" / "train").items()


def test_several_processes_prepare_once(large):
    processes = [start(large, "shared", 1) for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    assert len({out for out, _ in outputs}) == 1
    manifest = large / "shared" / "manifest.json"
    newest = max(path.stat().st_mtime_ns for path in (large / "shared").rglob("*.tokens"))
    assert newest <= manifest.stat().st_mtime_ns


@pytest.mark.slow
def test_memory_stays_bounded(tmp_path):
    """A corpus of 120 MB takes less than 1 GB, over all processes."""
    generator = np.random.default_rng(0)
    words = np.array(["".join(generator.choice(list("abcdefgh"), 5)) for _ in range(30_000)])
    with (tmp_path / "train.jsonl").open("w") as file:
        for _ in range(2000):
            file.write(json.dumps({"text": " ".join(generator.choice(words, 10_000))}) + "\n")
    (tmp_path / "prepare.py").write_text(SCRIPT.replace("60_000", "1 << 24"))
    process = start(tmp_path, "out", 2)
    peak = 0
    while process.poll() is None:
        try:
            family = [psutil.Process(process.pid)]
            family += family[0].children(recursive=True)
            peak = max(peak, sum(member.memory_info().rss for member in family))
        except psutil.Error:
            pass
        time.sleep(0.05)
    assert process.returncode == 0, process.stderr.read()
    assert peak < 1e9
