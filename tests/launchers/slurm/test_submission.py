"""Missing requirements of a submission are reported before any work is done."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mobilellm.hydra_app.configuration import config_loader
from mobilellm.hydra_app.sweep_check import check_sweep

ROOT = Path(__file__).parents[3]


def test_without_slurm_it_says_where_to_go_and_asks_for_no_gpu_here(tiny_overrides):
    """A login node needs no GPU for `trainer=cuda`, but it needs sbatch."""
    command = [sys.executable, "scripts/train.py", "-m", "hydra/launcher=slurm", *tiny_overrides,
               "trainer=cuda", "trainer.cuda_graph=true", "seed=0,1"]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PATH": "/nowhere", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, check=False, timeout=120,
        encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "error: sbatch is not found, so this machine does not belong to a SLURM cluster; run the "
        "command on the cluster's login node, or use hydra/launcher=local\n"
    )


def test_a_missing_submitit_is_named_before_a_trial_is_checked(monkeypatch):
    checked = []
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "mobilellm.launchers.slurm.submission.find_spec",
        lambda name: None if name == "submitit" else find_spec(name),
    )
    message = r"hydra/launcher=slurm needs .*submitit.* pip install \"mobilellm\[slurm\]\""
    with config_loader() as loader, pytest.raises(ValueError, match=message):
        check_sweep(loader, "train", ["hydra/launcher=slurm", "seed=0,1"], checked.append)
    assert not checked
