"""Real training on a real SLURM: preempted, requeued, killed and resumed, bit for bit."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from local_slurm import local_slurm
from slurm_jobs import ROOT, processes, queue, wait_until

from mobilellm.checkpoint import read_tensors
from mobilellm.launchers.slurm.record import read_record
from mobilellm.run_folder import read_summary

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
TIMED = ("seconds", "tokens_per_second", "model_flops_utilization")
LAUNCHER = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1",
            "hydra.launcher.time_minutes=20", "hydra.launcher.poll_seconds=1"]  # fmt: skip


@pytest.fixture
def train(tiny_overrides):
    """Give a command that trains long enough to be interrupted, in steps that are all logged."""
    longer = ["max_tokens=128000", "validation_interval_tokens=25600", "log_interval_steps=1",
              "callbacks.checkpoint.every_steps=40"]  # fmt: skip

    def run(*overrides: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "scripts/train.py", "-m", *tiny_overrides, *longer, *overrides]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False,
            timeout=400,
            encoding="utf-8",
        )  # fmt: skip

    return run


@pytest.fixture(autouse=True)
def no_job_is_left(slurm):
    yield
    for job in queue():
        subprocess.run(["scancel", job], check=False)
    wait_until(lambda: not queue(), 60)


@pytest.fixture
def two_nodes(slurm, monkeypatch):
    """A second SLURM, of two nodes with a core each."""
    with (
        tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder,
        local_slurm(Path(folder), cpus=1, nodes=2) as environment,
    ):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield


def folders(experiment: Path) -> dict[int, Path]:
    """The run folder of each seed."""
    return {
        int(match.group(1)): path.parent
        for path in experiment.glob("*/job.json")
        if (
            match := re.search(
                r"^seed: (\d+)$", (path.parent / "job.yaml").read_text(encoding="utf-8"), re.M
            )
        )
    }


def steps(folder: Path) -> int:
    path = folder / "metrics.csv"
    return len(path.read_text(encoding="utf-8").splitlines()) - 2 if path.exists() else 0


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k not in TIMED} for row in csv.DictReader(file)]


def log(folder: Path) -> str:
    record = read_record(folder)
    assert record is not None
    return Path(record.log).read_text(encoding="utf-8")


def status(folder: Path) -> str:
    return (read_summary(folder) or {}).get("status", "none")


def shown(experiment: Path) -> str:
    command = [sys.executable, "scripts/status.py", str(experiment)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, encoding="utf-8"
    )
    return " ".join(done.stdout.split())


def assert_same_learning(run: Path, other: Path) -> None:
    assert len(rows(run)) > 300
    assert rows(run) == rows(other)
    mine, others = (read_tensors(folder / "model/model.safetensors") for folder in (run, other))
    assert mine.keys() == others.keys()
    assert all(torch.equal(mine[name], others[name]) for name in mine)


def test_a_sweep_that_is_preempted_and_killed_ends_as_one_that_is_not(train, tmp_path):
    cluster, alone = tmp_path / "outputs/cluster", tmp_path / "outputs/alone"
    sweep = (*LAUNCHER, "seed=0,1,2,3", "experiment_name=cluster")
    done = train(*sweep)
    assert done.returncode == 0, done.stderr
    assert "submitted 4 trials as job" in done.stderr
    jobs = queue()
    [array] = {job.partition("_")[0] for job in jobs}
    runs = folders(cluster)
    assert sorted(runs) == [0, 1, 2, 3]
    assert not any(status(run) == "finished" for run in runs.values()), "it waited for the jobs"
    assert re.search(r"4 runs: (\d running, )?\d queued", shown(cluster))

    interrupt(runs, array)
    killed = shown(cluster)
    assert f"job {array}_1 ended as FAILED (SIGKILL)" in killed
    assert f"{array}_1_0_log.out" in killed
    again = train(*sweep)
    assert again.returncode == 0, again.stderr
    assert "submitted 1 trial as job" in again.stderr
    assert re.search(rf"already (requeued|running) as job {array}_2: ", again.stderr)
    waited = train(*sweep, "hydra.launcher.wait=true")
    assert waited.returncode == 0, waited.stderr
    assert "submitted" not in waited.stderr, "a second job for a run that had one"
    assert not queue()
    assert "4 runs: 4 finished" in shown(cluster)

    local = ("hydra/launcher=local", "hydra.launcher.n_jobs=2", "hydra.launcher.threads_per_job=1")
    assert train(*local, "seed=0,1,2,3", "experiment_name=alone").returncode == 0
    commit = subprocess.check_output(
        ["git", "rev-parse", "HEAD"], text=True, encoding="utf-8"
    ).strip()
    for run in runs.values():
        summary = read_summary(run)
        assert summary is not None
        assert (summary["threads"], summary["git"]["commit"]) == (1, commit)
        assert_same_learning(run, alone / run.name)


def interrupt(runs: dict[int, Path], array: str) -> None:
    """Three of four runs in the middle, each in another way."""
    wait_until(lambda: min(steps(runs[0]), steps(runs[1])) > 50)
    # Without warning: at most 40 steps are lost, and nobody starts it again.
    os.kill(processes(f"{array}_1")[0], signal.SIGKILL)
    # The scheduler's warning: saved at once, and the same job goes on. (`scancel --signal` would
    # repeat it for half a minute, since the job is no longer running when it looks.)
    os.kill(processes(f"{array}_0")[0], signal.SIGUSR2)
    wait_until(lambda: "is requeued and continues from its checkpoint" in log(runs[0]))
    assert "stopped by SIGUSR2 after step" in log(runs[0])
    wait_until(lambda: f"{array}_1" not in queue())
    # By the administrator: SIGTERM, and SLURM itself starts it again.
    wait_until(lambda: steps(runs[2]) > 50)
    subprocess.run(["scontrol", "requeue", f"{array}_2"], check=True)
    wait_until(lambda: status(runs[2]) == "stopped")


def test_two_ranks_stop_at_one_step_when_one_of_them_is_told_to(train, tmp_path):
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "seed=0",
           "max_tokens=51200"]  # fmt: skip
    outputs = tmp_path / "outputs"
    done = train(*LAUNCHER, *two, "experiment_name=two")
    assert done.returncode == 0, done.stderr
    [run] = folders(outputs / "two").values()
    wait_until(lambda: steps(run) > 50)
    [job] = queue()
    ranks = processes(job)
    assert sorted(ranks) == [0, 1], "tasks per node are not the devices"
    os.kill(ranks[1], signal.SIGUSR2)
    wait_until(lambda: "is requeued" in log(run))
    waited = train(*LAUNCHER, *two, "experiment_name=two", "hydra.launcher.wait=true")
    assert waited.returncode == 0, waited.stderr
    summary = read_summary(run)
    assert summary is not None
    assert summary["devices"] == 2
    assert len(list((outputs / "two").glob("*/summary.json"))) == 1, "a rank began another run"
    whole = train(*LAUNCHER, *two, "experiment_name=whole", "hydra.launcher.wait=true")
    assert whole.returncode == 0, whole.stderr
    assert_same_learning(run, outputs / "whole" / run.name)


def test_a_run_on_two_nodes_learns_what_one_machine_learns(two_nodes, train, tmp_path):
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "seed=0", "max_tokens=51200"]
    spread = ["trainer.num_nodes=2", "trainer.devices=1", "experiment_name=spread",
              "hydra.launcher.setup=['export MASTER_ADDR=127.0.0.1']"]  # fmt: skip
    outputs = tmp_path / "outputs"
    done = train(*LAUNCHER, *ddp, *spread)
    assert done.returncode == 0, done.stderr
    [run] = folders(outputs / "spread").values()
    wait_until(lambda: steps(run) > 50)
    [job] = queue()
    ranks = processes(job)
    assert sorted(ranks) == [0, 1]
    assert {node_of(process) for process in ranks.values()} == {"node1", "node2"}
    os.kill(ranks[1], signal.SIGUSR2)
    wait_until(lambda: "is requeued" in log(run))
    waited = train(*LAUNCHER, *ddp, *spread, "hydra.launcher.wait=true")
    assert waited.returncode == 0, waited.stderr
    assert "submitted" not in waited.stderr
    here = train("hydra/launcher=basic", *ddp, "trainer.devices=2", "experiment_name=here")
    assert here.returncode == 0, here.stderr
    assert_same_learning(run, outputs / "here" / run.name)


def node_of(process: int) -> str:
    environment = Path(f"/proc/{process}/environ").read_text(encoding="utf-8")
    return re.findall(r"SLURMD_NODENAME=([^\0]*)", environment)[0]


def test_a_job_of_higher_priority_takes_the_place_and_gives_it_back(train, tmp_path):
    done = train(*LAUNCHER, "hydra.launcher.cpus_per_task=2", "seed=0")
    assert done.returncode == 0, done.stderr
    [run] = folders(tmp_path / "outputs/default").values()
    wait_until(lambda: steps(run) > 50)
    [job] = queue()
    # SLURM sends SIGTERM, and would count a job that then ends by itself as done.
    subprocess.run(["srun", "--partition=urgent", "true"], check=True, timeout=60)
    assert "stopped by SIGTERM after step" in log(run)
    assert f"job {job} is requeued and continues from its checkpoint" in log(run)
    wait_until(lambda: not queue())
    assert status(run) == "finished"


def test_a_time_limit_is_saved_for(train, tmp_path):
    done = train(*LAUNCHER, "hydra.launcher.signal_seconds=40", "seed=0", "max_tokens=1e7")
    assert done.returncode == 0, done.stderr
    [run] = folders(tmp_path / "outputs/default").values()
    wait_until(lambda: steps(run) > 50)
    [job] = queue()
    subprocess.run(["scontrol", "update", f"JobId={job}", "TimeLimit=1"], check=True)
    # SLURM looks at time limits twice a minute.
    wait_until(lambda: f"job {job} is requeued and continues from its checkpoint" in log(run))
    assert "stopped by SIGUSR2 after step" in log(run)


def test_a_rank_that_dies_ends_the_job(train, tmp_path):
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "seed=0"]
    train(*LAUNCHER, *two)
    [run] = folders(tmp_path / "outputs/default").values()
    wait_until(lambda: steps(run) > 5)
    [job] = queue()
    os.kill(processes(job)[1], signal.SIGKILL)
    begin = time.monotonic()
    wait_until(lambda: not queue(), 60)
    assert time.monotonic() - begin < 30, "the other rank went on waiting"
    assert ", rank 1 on localhost by SIGKILL; often: out of" in shown(tmp_path / "outputs/default")


def test_jobs_run_the_code_as_it_was_when_they_were_submitted(train, tmp_path):
    clone = tmp_path / "clone"
    for name in ("mobilellm", "conf", "scripts"):
        shutil.copytree(ROOT / name, clone / name)
    done = train(
        *LAUNCHER, "seed=0", "max_tokens=1280", "+hydra.launcher.sbatch_options.hold=true",
        folder=clone,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [job] = queue()
    for path in [*clone.rglob("*.py"), *clone.rglob("*.yaml")]:
        path.write_text("raise RuntimeError('edited after submission')\n", encoding="utf-8")
    subprocess.run(["scontrol", "release", job], check=True)
    wait_until(lambda: not queue())
    [run] = folders(tmp_path / "outputs/default").values()
    assert status(run) == "finished", log(run)
