"""A run whose last checkpoint is damaged goes on from the one before, to the same end."""

import json
import logging
from pathlib import Path

import pytest
from killed_runs import rows

from mobilellm.checkpoint import read_tensors


@pytest.fixture
def interrupted(tiny_run, tmp_path):
    """A run's folder as a kill after its last checkpoint would leave it, and its weights."""
    tiny_run("log_interval_steps=1")
    [summary] = tmp_path.glob("outputs/*/*/summary.json")
    content = json.loads(summary.read_text(encoding="utf-8")) | {"status": "running"}
    summary.write_text(json.dumps(content), encoding="utf-8")
    return summary.parent, read_tensors(summary.parent / "model/model.safetensors")


def damage(path: Path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 64
    path.write_bytes(content)


def test_it_goes_on_from_the_one_before(interrupted, tiny_run, caplog):
    folder, weights = interrupted
    expected = rows(folder)
    damage(folder / "checkpoints/last.ckpt")
    with caplog.at_level(logging.WARNING):
        summary = tiny_run("log_interval_steps=1", "resume=true")
    assert "last.ckpt is damaged" in caplog.text
    assert summary["status"] == "finished"
    assert rows(folder) == expected
    found = read_tensors(folder / "model/model.safetensors")
    assert all((found[name] == weight).all() for name, weight in weights.items())


def test_two_damaged_ones_are_an_error_and_stay(interrupted, tiny_run):
    folder, _ = interrupted
    for name in ("last.ckpt", "previous.ckpt"):
        damage(folder / "checkpoints" / name)
    with pytest.raises(ValueError, match=r"is damaged .* and there is no valid one before it"):
        tiny_run("log_interval_steps=1", "resume=true")
    assert (folder / "checkpoints/last.ckpt").exists()
    assert (folder / "checkpoints/previous.ckpt").exists()
