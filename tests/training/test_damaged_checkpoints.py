"""A checkpoint that is damaged gives way to the one before; kills never damage one."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mobilellm.checkpoint_files import find_damage, last_checkpoint, latest_valid_checkpoint
from mobilellm.training.atomic_save import save_atomically

KILLS = 100


@pytest.fixture
def checkpoints(tmp_path):
    folder = tmp_path / "checkpoints"
    for step in (1, 2):
        content = {"step": step, "weight": torch.arange(5000.0) * step}
        save_atomically(content, folder / "last.ckpt")
    return folder


def truncate(path):
    path.write_bytes(path.read_bytes()[:-300])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def test_an_intact_checkpoint_is_taken(checkpoints, caplog):
    assert latest_valid_checkpoint(checkpoints.parent) == checkpoints / "last.ckpt"
    assert find_damage(checkpoints / "previous.ckpt") is None
    assert not caplog.records


@pytest.mark.parametrize("damage", [truncate, flip, empty])
def test_the_previous_checkpoint_is_used_and_kept(checkpoints, caplog, damage):
    damage(checkpoints / "last.ckpt")
    with caplog.at_level(logging.WARNING):
        assert latest_valid_checkpoint(checkpoints.parent) == checkpoints / "previous.ckpt"
    assert "last.ckpt is damaged (" in caplog.text
    assert "was renamed to damaged.ckpt; the run resumes from prev" in caplog.text
    assert last_checkpoint(checkpoints.parent) == checkpoints / "previous.ckpt"
    save_atomically({"step": 3}, checkpoints / "last.ckpt")
    steps = {p.name: torch.load(p)["step"] for p in checkpoints.glob("[lp]*.ckpt")}
    assert steps == {"last.ckpt": 3, "previous.ckpt": 1}
    assert find_damage(checkpoints / "damaged.ckpt") is not None


def test_two_damaged_checkpoints_are_an_error(checkpoints):
    flip(checkpoints / "last.ckpt")
    truncate(checkpoints / "previous.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged .* there is no valid one before"):
        latest_valid_checkpoint(checkpoints.parent)
    (checkpoints / "last.ckpt").unlink()
    with pytest.raises(ValueError, match=r"previous\.ckpt is damaged .*; restore a copy, or rem"):
        latest_valid_checkpoint(checkpoints.parent)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["waiting", "background"])
def test_a_hundred_kills_while_writing(tmp_path, way):
    script = Path(__file__).with_name("killed_saves.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(KILLS), way],
        capture_output=True, text=True, timeout=300, check=False,
        encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert not done.stderr
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) == KILLS
    assert all(kill["is_whole"] and kill["is_last"] and not kill["damage"] for kill in kills)
    steps = [kill["step"] for kill in kills]
    assert steps == sorted(steps)
    assert steps[-1] > KILLS // 2
    caught_writing = sum(bool(kill["leftovers"]) for kill in kills)
    assert caught_writing > KILLS // 4, "the kills did not hit the writing"
