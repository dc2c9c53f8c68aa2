"""Several processes for one run: one configuration, and an end when one of them ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from command_process import run_command
from killed_runs import has_step, rows, the_folder, wait_for

from mobilellm.checkpoint import load_model

ROOT = Path(__file__).parents[2]
TRAINING = str(ROOT / "tests/training")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
# A rank that waits for one that is gone would do so for half an hour.
LIMIT_SECONDS = 180
FAIL = "+callbacks.fail._target_=failing.FailOnRank"
pytestmark = pytest.mark.slow


@pytest.fixture
def two(tiny_overrides, monkeypatch):
    """The tiny run on two processes of this machine."""
    path = [str(Path(__file__).parent), TRAINING, os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rest = [o for o in tiny_overrides if o != "trainer=cpu"]
    return [*rest, "trainer=ddp", "trainer.accelerator=cpu", "log_interval_steps=1"]


def call(*command):
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
        encoding="utf-8",
    )


def own(*overrides, timeout=LIMIT_SECONDS):
    path = {"PYTHONPATH": os.environ["PYTHONPATH"]}
    return run_command("train", *overrides, "trainer.devices=2", seconds=timeout, environment=path)


def summaries(experiment):
    return [
        json.loads(path.read_text(encoding="utf-8")) for path in experiment.glob("*/summary.json")
    ]


def test_torchrun_trains_the_run_that_the_command_trains(two, tmp_path):
    for name, done in (
        ("own", own(*two, "experiment_name=own")),
        ("torchrun", call(*TORCHRUN, "scripts/train.py", *two, "experiment_name=torchrun")),
    ):
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stderr.count("finished: validation loss") == 1
        [summary] = summaries(tmp_path / "outputs" / name)
        assert (summary["status"], summary["devices"]) == ("finished", 2)
    [first], [second] = (list((tmp_path / "outputs" / n).glob("*-*")) for n in ("own", "torchrun"))
    assert len(rows(first)) == 13
    assert rows(first) == rows(second)


def test_a_sweep_trains_each_trial_on_all_its_ranks(two, tmp_path):
    done = own("-m", *two, "seed=4,5", "experiment_name=sweep", timeout=2 * LIMIT_SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    found = summaries(tmp_path / "outputs/sweep")
    assert sorted((s["seed"], s["devices"], s["status"]) for s in found) == [
        (4, 2, "finished"), (5, 2, "finished"),
    ]  # fmt: skip


def test_a_probed_learning_rate_is_the_same_on_all_ranks(two, tmp_path):
    probe = [
        "learning_rate_probe=true", "learning_rate_probe_factors=[0.5,2]",
        "learning_rate_probe_widenings=1",
    ]  # fmt: skip
    done = own(*two, *probe, "experiment_name=probe", timeout=2 * LIMIT_SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    [summary] = summaries(tmp_path / "outputs/probe")
    assert len(summary["learning_rates_tried"]) == 3, "the best of two is always at an end"


def test_ranks_with_different_configurations_do_not_train(two, tmp_path):
    line = " ".join([sys.executable, "scripts/train.py", *two, "experiment_name=differ"])
    rates = "seed=$RANK optimizer.learning_rate=0.00$((RANK+1))"
    done = call(*TORCHRUN, "--no-python", "bash", "-c", f"exec {line} {rates}")
    assert done.returncode != 0
    assert "error: the 2 ranks of this run have different configurations: " in done.stderr
    assert (
        "optimizer.learning_rate is 0.001 on rank 0, 0.002 on rank 1; seed is 0 on" in done.stderr
    )
    assert not (tmp_path / "outputs/differ").exists()


@pytest.mark.parametrize("how", ["own", "torchrun"])
def test_a_rank_that_raises_ends_the_run_and_is_heard_first(two, tmp_path, how):
    arguments = [*two, FAIL, "experiment_name=fail"]
    done = own(*arguments) if how == "own" else call(*TORCHRUN, "scripts/train.py", *arguments)
    assert done.returncode != 0
    text = done.stderr
    first_error = next(line for line in text.splitlines() if line.startswith("RuntimeError"))
    assert first_error == "RuntimeError: the culprit's own words"
    [summary] = summaries(tmp_path / "outputs/fail")
    assert summary["status"] == "failed"
    if how == "own":
        assert summary["error"] == "RuntimeError: the culprit's own words"


def test_a_rank_that_is_killed_ends_the_run(two, tmp_path):
    done = own(*two, FAIL, "+callbacks.fail.kill=true", "experiment_name=killed")
    assert done.returncode == 1
    assert "rank 1 of 2 was killed by SIGKILL (often: out of memory), which ended" in done.stderr
    [summary] = summaries(tmp_path / "outputs/killed")
    assert summary["status"] == "failed"
    assert summary["error"].startswith("RankDied: rank 1 of 2 was killed by SIGKILL")


def test_ranks_go_back_together(two, tiny_run, tmp_path):
    back = ["callbacks.loss_guard.action=rollback", "+callbacks.poison._target_=poison.Poison",
            "+callbacks.poison.at=[20]"]  # fmt: skip
    alone = tiny_run(*back, "log_interval_steps=1", "experiment_name=alone")
    done = own(*two, *back, "+callbacks.poison.rank=1", "experiment_name=back")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("step 6: the gradient's norm is nan") == 1
    [summary] = summaries(tmp_path / "outputs/back")
    assert [e["next_sample"] for e in summary["loss_guard"]] == [24]
    assert [e["next_sample"] for e in alone["loss_guard"]] == [24]
    assert summary["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-5)


def test_sharded_ranks_compress_one_model(two, tiny_run, tmp_path):
    stages = "++compression.num_stages=1"
    alone = tiny_run("compression=low_rank", stages, "experiment_name=alone")
    others = [override for override in two if override != "trainer=ddp"]
    done = own(*others, "trainer=fsdp", "compression=low_rank", stages, "experiment_name=two")
    assert done.returncode == 0, done.stderr[-3000:]
    [summary] = summaries(tmp_path / "outputs/two")
    assert len(summary["compression"]["stages"]) == 1
    assert summary["parameters"] == alone["parameters"]
    assert summary["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-5)
    [model] = tmp_path.glob("outputs/two/*/model")
    stored = sum(p.numel() for p in load_model(model).parameters())
    assert stored == summary["parameters"]["stored"]


def start_and_signal(numbers, experiment, step, *overrides):
    """Send the command signals once its run has that step; its exit code."""
    command = [sys.executable, "scripts/train.py", *overrides, "trainer.devices=2"]
    process = subprocess.Popen([*command, f"experiment_name={experiment.name}"], cwd=ROOT)
    wait_for(process, lambda: has_step(experiment, step))
    ranks = psutil.Process(process.pid).children()
    assert len(ranks) == 2
    for number in numbers:
        process.send_signal(number)
        time.sleep(1)
    code = process.wait(timeout=LIMIT_SECONDS)
    assert psutil.wait_procs(ranks, timeout=10)[1] == []
    return code


def test_a_killed_command_takes_its_ranks_along(two, tmp_path):
    start_and_signal([signal.SIGKILL], tmp_path / "outputs/killed", 3, *two, "max_tokens=1e7")


def test_the_second_signal_ends_ranks_that_wait_for_each_other(two, tmp_path):
    hanging = tmp_path / "outputs/hanging"
    arguments = [*two, FAIL, "+callbacks.fail.hang=true", "callbacks.checkpoint.every_steps=1"]
    code = start_and_signal([signal.SIGTERM, signal.SIGINT], hanging, 2, *arguments)
    assert code == 128 + signal.SIGINT
    [summary] = summaries(hanging)
    assert summary["status"] == "stopped"
    assert list(hanging.glob("*/checkpoints/last.ckpt"))


def test_ranks_killed_before_their_summary_go_on(two, tmp_path):
    mine = [*[o for o in two if o != "trainer=ddp"], "trainer=fsdp", "experiment_name=late"]
    assert own(*mine).returncode == 0
    [whole] = summaries(tmp_path / "outputs/late")
    [path] = tmp_path.glob("outputs/late/*/summary.json")
    path.write_text(json.dumps(whole | {"status": "running", "val_loss": None}), encoding="utf-8")
    done = own(*mine, "resume=true")
    assert done.returncode == 0, done.stderr[-3000:]
    [again] = summaries(tmp_path / "outputs/late")
    assert again["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-6)


def test_a_signal_to_the_command_stops_its_ranks(two, tmp_path):
    long = [*two, "max_tokens=1e7", "logger=wandb"]
    told = tmp_path / "outputs/told"
    for begun, resume in enumerate(("false", "true")):
        before = len(rows(the_folder(told))) if begun else 0
        code = start_and_signal([signal.SIGTERM], told, before + 3, *long, f"resume={resume}")
        assert code == 128 + signal.SIGTERM
        [summary] = summaries(told)
        assert summary["status"] == "stopped"
        assert list(told.glob("*/checkpoints/last.ckpt"))
        # One of each start, not of each rank, and both one run.
        ids = [path.name.rpartition("-")[2] for path in told.glob("*/wandb/offline-run-*")]
        assert len(ids) == begun + 1
        assert len(set(ids)) == 1
