"""Checkpoint files: whole or not there, readable with weights_only."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

from mobilellm.training.atomic_save import check_same_model, save_atomically
from mobilellm.training.checkpoint_io import AtomicCheckpointIO

CONTENT = {"state_dict": {"weight": torch.arange(12.0)}, "model_config": {"hidden_size": 8}}


def test_round_trip_and_replacement(tmp_path):
    io, path = AtomicCheckpointIO(), tmp_path / "new/last.ckpt"
    io.save_checkpoint({"old": 1}, path)
    io.save_checkpoint(CONTENT, path)
    loaded = io.load_checkpoint(path)
    assert loaded["model_config"] == {"hidden_size": 8}
    assert torch.equal(loaded["state_dict"]["weight"], torch.arange(12.0))
    assert io.load_checkpoint(path.with_name("previous.ckpt")) == {"old": 1}
    assert sorted(p.name for p in path.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]
    io.remove_checkpoint(path)
    assert not path.exists()


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"x": Harmful()}, tmp_path / "bad.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "bad.ckpt")


FULL_DISK = """
    import resource, signal, sys, torch
    from pathlib import Path
    from mobilellm.training.atomic_save import save_atomically

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = Path(sys.argv[1])
    save_atomically({"step": 0}, path)
    save_atomically({"step": 1}, path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        save_atomically({"step": 2, "weight": torch.zeros(1_000_000)}, path)
    except OSError as error:
        print(error.errno, error)
    for path in sorted(path.parent.iterdir()):
        print(path.name, torch.load(path, weights_only=True))
"""


def test_a_disk_that_fills_up_keeps_the_checkpoint_before(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path / "last.ckpt")],
        capture_output=True, text=True, check=True,
        encoding="utf-8",
    )  # fmt: skip
    message, *files = done.stdout.strip().splitlines()
    assert message.startswith("27 ")
    assert "was not written: File too large; the former last.ckpt is kept; free space" in message
    assert "the same command again with resume=true" in message
    assert files == ["last.ckpt {'step': 1}", "previous.ckpt {'step': 0}"]


def test_a_file_that_reads_back_otherwise_takes_no_place(tmp_path, monkeypatch):
    real_save = torch.save

    def save(content, file):
        real_save(content, file)
        if content["step"] == 2:
            os.ftruncate(file.fileno(), 1000)

    monkeypatch.setattr(torch, "save", save)
    for step in range(2):
        save_atomically({"step": step}, tmp_path / "last.ckpt")
    with pytest.raises(
        OSError, match=r"was not written: it was damaged when it was read back \(BadZipFile"
    ):
        save_atomically({"step": 2, "weight": torch.zeros(999)}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt") == {"step": 1}
    assert torch.load(tmp_path / "previous.ckpt") == {"step": 0}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OSError, match="file"):
        save_atomically(CONTENT, tmp_path / "file/last.ckpt")


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt does not exist; give the path"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "nowhere.ckpt")


def test_models_are_compared_field_by_field():
    check_same_model({"a": 1, "b": [1, 2]}, {"a": 1, "b": [1, 2]})
    with pytest.raises(ValueError, match="holds another model: a=1, now 2, c=None, now 3; resume"):
        check_same_model({"a": 1, "b": 5}, {"a": 2, "b": 5, "c": 3})
