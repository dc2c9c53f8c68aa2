"""Full disks, kills, several processes at a time, bounded memory."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from unittest import mock

import numpy as np
import psutil
import pytest
from preparing import (
    LIBRARY,
    config_for,
    finished_shards,
    prepare,
)

from mobilellm.data import (
    JsonlData,
    open_prepared,
)
from mobilellm.data.resolved import resolve_data


@contextmanager
def full_disk_at(folder, shard):
    """The temporary file of one shard is on a full disk."""
    (folder / "train").mkdir(parents=True, exist_ok=True)
    (folder / "train" / f"{shard:05d}.tokens.{os.getpid()}.tmp").symlink_to("/dev/full")
    with mock.patch("mobilellm.data.preparation.prepare.remove_temporary_files"):
        yield


def test_a_full_disk_keeps_finished_shards_and_the_next_call_goes_on(corpus):
    config = config_for(corpus)
    whole = prepare(config_for(corpus, name="whole"), shard_tokens=5000)
    # Begin, so that the folder is known, and find the disk full at the third shard.
    with pytest.raises(ValueError, match="UTF-8"):
        (corpus / "train" / "zzz.txt").write_bytes(b"\xff")
        prepare(config)
    (corpus / "train" / "zzz.txt").unlink()
    full = pytest.raises(OSError, match=r"00002.tokens takes 10 kB; about .* kB are needed")
    with full_disk_at(resolve_data(config).folder, 2), full as caught:
        prepare(config, shard_tokens=5000)
    assert caught.value.errno == errno.ENOSPC
    kept = finished_shards(resolve_data(config).folder / "train")
    assert [path.name for path in sorted(kept)] == ["00000.tokens", "00001.tokens"]
    assert open_prepared(config) is None
    resumed = prepare(config, shard_tokens=5000)
    assert resumed.hashes == whole.hashes
    assert resumed.manifest["splits"] == whole.manifest["splits"]
    assert kept.items() <= finished_shards(resolve_data(config).folder / "train").items()


def test_unfinished_work_for_other_input_is_started_afresh(corpus):
    config = config_for(corpus)
    resolve_data(config).folder.mkdir(parents=True)
    (resolve_data(config).folder / "inputs.json").write_text("{}", encoding="utf-8")
    with full_disk_at(resolve_data(config).folder, 1), pytest.raises(OSError, match="takes"):
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
    text = (LIBRARY / "argparse.py").read_text(encoding="utf-8")
    with (tmp_path / "train.jsonl").open("w", encoding="utf-8") as file:
        for number in range(300):
            file.write(json.dumps({"text": f"{number} {text[number:40_000]}"}) + "\n")
    (tmp_path / "prepare.py").write_text(SCRIPT, encoding="utf-8")
    return tmp_path


def start(large, folder, workers):
    return subprocess.Popen(
        [sys.executable, "prepare.py", "train.jsonl", folder, str(workers)],
        cwd=large,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
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
    with (tmp_path / "train.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(2000):
            file.write(json.dumps({"text": " ".join(generator.choice(words, 10_000))}) + "\n")
    (tmp_path / "prepare.py").write_text(SCRIPT.replace("60_000", "1 << 24"), encoding="utf-8")
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
