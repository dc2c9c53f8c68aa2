"""The command as tasks of a step: the ranks of one run, or separate runs side by side."""

import os
import subprocess
import sys

import pytest
from slurm_jobs import ROOT

from mobilellm.run_folder import read_summary

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def srun(*overrides):
    """Give the command as two tasks; `{task}` in an override is the task's number."""
    command = " ".join([sys.executable, "scripts/train.py", *overrides])
    line = f"exec {command}".replace("{task}", "$SLURM_PROCID")
    return subprocess.run(
        ["srun", "--ntasks=2", "bash", "-c", line], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False, timeout=400,
        encoding="utf-8",
    )  # fmt: skip


def test_the_tasks_are_the_ranks_of_one_run(slurm, tiny_overrides, tmp_path):
    done = srun(*tiny_overrides, "trainer=cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    [path] = tmp_path.glob("outputs/*/*/summary.json")
    summary = read_summary(path.parent)
    assert (summary["status"], summary["devices"]) == ("finished", 2)
    assert done.stderr.count("finished: validation loss") == 1


def test_tasks_with_one_device_each_are_runs_of_their_own(slurm, tiny_overrides, tmp_path):
    done = srun(*tiny_overrides, "trainer=cpu", "trainer.devices=1", "seed={task}")
    assert done.returncode == 0, done.stderr[-3000:]
    found = [read_summary(path.parent) for path in tmp_path.glob("outputs/*/*/summary.json")]
    assert sorted(summary["seed"] for summary in found) == [0, 1]
    for summary in found:
        assert (summary["status"], summary["devices"]) == ("finished", 1)
    assert len(list(tmp_path.glob("outputs/*/*/model/model.safetensors"))) == 2
    assert "SLURM_PROCID=1, SLURM_LOCALID=1, SLURM_NTASKS=2: ignored, because this run is one" in (
        done.stderr
    )


def test_another_number_of_tasks_is_refused(slurm, tiny_overrides, tmp_path):
    done = srun(*tiny_overrides, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=4")
    assert done.returncode == 2
    assert "are 4 processes, and srun started 2, 2 on this node" in done.stderr
    assert not list(tmp_path.glob("outputs/*"))
