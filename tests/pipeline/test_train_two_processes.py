"""The command on two processes ends, keeps a whole model, and learns what one process learns."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mobilellm.checkpoint import load_model

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def test_two_processes_train_one_model(tiny_overrides, tiny_run, tmp_path):
    """Sharded; `test_rank_processes.py` has the runs that are not."""
    alone = tiny_run()
    two = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2"]
    rest = [o for o in tiny_overrides if o != "trainer=cpu"]
    command = [sys.executable, "scripts/train.py", *rest, *two, "experiment_name=two"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    [path] = tmp_path.glob("outputs/two/*/summary.json")
    summary = json.loads(path.read_text(encoding="utf-8"))
    assert summary["status"] == "finished"
    assert summary["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-4)
    model = load_model(path.parent / "model")
    assert sum(p.numel() for p in model.parameters()) == summary["parameters"]["stored"]
