"""Runs and trials killed with SIGKILL at a random step go on exactly where they were saved."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
STEPS = 120
pytestmark = pytest.mark.slow


@pytest.fixture
def overrides(tiny_overrides: list[str]) -> list[str]:
    return [
        *tiny_overrides, f"max_tokens={STEPS * 128}", "log_interval_steps=1",
        "callbacks.checkpoint.every_steps=7", "micro_batch_size=2",
        "validation_interval_tokens=4096",
    ]  # fmt: skip


def _train(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "scripts/train.py", *arguments], cwd=ROOT)


def _losses(metrics: Path) -> list[tuple[str, str, str]]:
    """Step, training and validation loss of every row, as they were written."""
    with metrics.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [(row["step"], row["train/loss"], row["val/loss"]) for row in rows]


def _the_folder(experiment: Path, seed: int) -> Path | None:
    """The folder of the run with that seed, None where it has not begun."""
    found = [
        path.parent
        for path in experiment.glob("*/summary.json")
        if json.loads(path.read_text(encoding="utf-8"))["seed"] == seed
    ]
    return found[0] if found else None


def _wait_for_step(
    experiment: Path, seed: int, step: int, process: subprocess.Popen[bytes]
) -> Path:
    """Wait until that run has written so many steps; its folder."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        folder = _the_folder(experiment, seed)
        metrics = None if folder is None else folder / "metrics.csv"
        if (
            metrics
            and metrics.exists()
            and len(metrics.read_text(encoding="utf-8").splitlines()) > step + 1
        ):
            return metrics.parent
        time.sleep(0.01)
    raise AssertionError(f"{experiment} did not reach step {step}: exit code {process.poll()}")


def _losses_of(experiment: Path, seed: int) -> list[tuple[str, str, str]]:
    folder = _the_folder(experiment, seed)
    assert folder is not None
    return _losses(folder / "metrics.csv")


def test_a_killed_run_goes_on_bit_for_bit(overrides, tmp_path):
    assert _train(*overrides, "seed=5", "experiment_name=alone").wait(timeout=240) == 0
    again = [*overrides, "seed=5", "experiment_name=killed"]
    for step in sorted(random.sample(range(1, STEPS - 10), 2)):
        process = _train(*again, "resume=true")
        _wait_for_step(tmp_path / "outputs/killed", 5, step, process)
        process.kill()
        process.wait()
    assert _train(*again).wait(timeout=240) == 2, "an unfinished run asks for resume=true"
    assert _train(*again, "resume=true").wait(timeout=240) == 0
    expected = _losses_of(tmp_path / "outputs/alone", 5)
    assert len(expected) == STEPS + 1
    assert _losses_of(tmp_path / "outputs/killed", 5) == expected


def test_a_run_told_to_stop_saves_and_goes_on(overrides, tmp_path):
    assert _train(*overrides, "seed=6", "experiment_name=alone").wait(timeout=240) == 0
    again = [*overrides, "seed=6", "experiment_name=told"]
    process = _train(*again)
    folder = _wait_for_step(tmp_path / "outputs/told", 6, random.randrange(3, 60), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=240) == 128 + signal.SIGTERM
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["status"] == "stopped"
    assert _train(*again, "resume=true").wait(timeout=240) == 0
    assert _losses_of(tmp_path / "outputs/told", 6) == _losses_of(tmp_path / "outputs/alone", 6)


def test_a_killed_trial_of_a_sweep_goes_on_bit_for_bit(overrides, tmp_path):
    sweep = ["-m", "hydra/launcher=local", "seed=7,8", *overrides]
    assert _train(*sweep, "experiment_name=alone").wait(timeout=240) == 0
    again = [*sweep, "experiment_name=killed"]
    process = _train(*again)
    killed = tmp_path / "outputs/killed"
    folder = _wait_for_step(killed, 8, random.randrange(1, 60), process)
    os.kill(_trial_process(process, folder), signal.SIGKILL)
    assert process.wait(timeout=240) == 1, "the sweep goes on and says that a trial failed"
    other = _the_folder(killed, 7)
    assert other is not None
    assert json.loads((other / "summary.json").read_text(encoding="utf-8"))["status"] == "finished"
    assert _train(*again).wait(timeout=240) == 0
    for seed in (7, 8):
        assert _losses_of(killed, seed) == _losses_of(tmp_path / "outputs/alone", seed)


def _trial_process(sweep: subprocess.Popen[bytes], folder: Path) -> int:
    """The process of the sweep whose output goes to that trial's log."""
    for child in psutil.Process(sweep.pid).children(recursive=True):
        target = os.readlink(f"/proc/{child.pid}/fd/1")
        if target.endswith(".log") and folder.name[-8:] in target:
            return child.pid
    raise AssertionError(f"no process writes the log of {folder.name}")
