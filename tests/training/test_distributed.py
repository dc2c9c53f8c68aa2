"""Two gloo processes learn what one learns, and continue each other's checkpoints."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import read_rows

from mobilellm.checkpoint_files import find_damage

SCRIPT = Path(__file__).with_name("distributed_run.py")
pytestmark = pytest.mark.slow


def run(folder, strategy, *, steps=8, resume=0, size=2, stop=-1, repeats=2):
    arguments = (folder, strategy, steps, resume, size, stop, repeats)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def assert_same(first, second):
    names = ("train/loss", "val/loss", "val/bits_per_byte", "gradient_norm", "learning_rate")
    mine, others = read_rows(first), read_rows(second)
    assert [row["step"] for row in mine] == [row["step"] for row in others]
    for a, b in zip(mine, others, strict=True):
        for name in names:
            assert bool(a[name]) == bool(b[name])
            if a[name]:
                assert float(a[name]) == pytest.approx(float(b[name]), rel=2e-5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    run(folder, "one")
    return folder


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_learn_what_one_learns(tmp_path, alone, strategy):
    run(tmp_path, strategy)
    assert_same(tmp_path, alone)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_signal_to_one_rank_stops_all_and_one_rank_goes_on(tmp_path, alone, strategy):
    output = run(tmp_path, strategy, stop=4)
    assert "rank 0 ended at step 5" in output
    assert "rank 1 ended at step 5" in output
    assert find_damage(tmp_path / "checkpoints/last.ckpt") is None
    run(tmp_path, "one", resume=1)
    assert_same(tmp_path, alone)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_go_on_with_other_micro_batches(tmp_path, alone, strategy):
    run(tmp_path, strategy, stop=2)
    run(tmp_path, strategy, resume=1, size=1)
    assert_same(tmp_path, alone)
