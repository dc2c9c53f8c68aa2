"""Sweeps of a small application as real job arrays."""

import json
import re
import subprocess
import sys

import pytest
from slurm_jobs import queue, wait_until

from mobilellm.launchers.slurm.record import read_record
from mobilellm.launchers.slurm.state import run_states

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SWEEP = ("-m", "hydra/launcher=slurm")


def starts(app, run: str) -> int:
    path = app.output / run / "starts"
    return len(path.read_text(encoding="utf-8").split()) if path.exists() else 0


def status(app, run: str) -> str:
    return run_states([app.output / run])[app.output / run].status


def shown(app) -> str:
    done = subprocess.run(
        [sys.executable, "scripts/status.py", app.output],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    return " ".join(done.stdout.split())


def test_waiting_tells_of_every_trial_and_a_bad_one_ends_no_other(slurm_app):
    done = slurm_app.run(*SWEEP, "hydra.launcher.wait=true", "seed=1,13,14,15,2")
    assert done.returncode == 1, done.stderr
    assert re.search(r"submitted 5 trials as job (\d+); see mobilellm status out; cancel wi",
                     done.stderr)  # fmt: skip
    failed = done.stderr.partition("3 of 5 trials failed:\n")[2]
    for reason in (
        r"seed=13: seed=13 brings bad luck; use 14; log: out/slurm/\d+_1_0_log.out",
        r"seed=14: KeyError: 'a defect'; log: out/slurm/\d+_2_0_log.out",
        r"seed=15: job \d+_3 ended as FAILED \(SIGKILL\), rank 0 .*; often: .*; log: \S+_3",
    ):
        assert re.search(reason, failed), failed
    assert [status(slurm_app, f"run-8-{seed}") for seed in (1, 2)] == ["finished"] * 2
    assert "error: seed=13 brings bad luck; use 14" in log(slurm_app, 13)
    assert "begins at 0 threads 1" in log(slurm_app, 1)
    text = shown(slurm_app)
    assert "seed=13 brings bad luck" in text
    assert "5 runs: 2 finished, 3 failed" in text

    again = slurm_app.run(*SWEEP, "hydra.launcher.wait=true", "seed=1,15,2")
    assert again.returncode == 0, again.stderr
    assert "2 of 3 trials are already finished" in again.stderr
    assert "submitted 1 trial as job" in again.stderr
    assert (starts(slurm_app, "run-8-1"), starts(slurm_app, "run-8-15")) == (1, 2)
    assert "begins at 6" in log(slurm_app, 15)


def log(app, seed: int) -> str:
    record = read_record(app.output / f"run-8-{seed}")
    assert record is not None
    with open(record.log, encoding="utf-8") as file:
        return file.read()


def test_it_returns_once_queued_and_submits_nothing_twice(slurm_app):
    sweep = (*SWEEP, "seed=1,2,3", "seconds=60")
    done = slurm_app.run(*sweep)
    assert done.returncode == 0, done.stderr
    jobs = queue()
    assert sorted(job.partition("_")[2] for job in jobs) == ["0", "1", "2"]
    assert len({job.partition("_")[0] for job in jobs}) == 1, "not one job array"
    wait_until(lambda: starts(slurm_app, "run-8-1") and starts(slurm_app, "run-8-2"))

    again = slurm_app.run(*sweep)
    assert again.returncode == 0
    array = next(iter(jobs)).partition("_")[0]
    assert f"already running as job {array}_0: seed=1\n" in again.stderr
    assert f"already queued as job {array}_2: seed=3\n" in again.stderr
    assert "submitted" not in again.stderr
    assert queue().keys() == jobs.keys()
    assert "3 runs: 2 running, 1 queued" in shown(slurm_app)


def test_ctrl_c_ends_the_waiting_and_not_the_jobs(slurm_app):
    process = slurm_app.start(*SWEEP, "hydra.launcher.wait=true", "seed=1,2", "seconds=60")
    wait_until(lambda: starts(slurm_app, "run-8-1"))
    process.send_signal(2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "no longer waiting: 0 of 2 finished; the jobs keep running" in err
    assert len(queue()) == 2


def test_a_cancelled_job_stays_cancelled_until_the_command_is_given_again(slurm_app):
    sweep = (*SWEEP, "seed=1", "seconds=10")
    slurm_app.run(*sweep)
    [job] = queue()
    wait_until((slurm_app.output / "run-8-1/state").exists)
    subprocess.run(["scancel", job], check=True)
    wait_until(lambda: not queue())
    assert "is CANCELLED and not requeued" in log(
        slurm_app, 1
    ) or "COMPLETING and not requeued" in (log(slurm_app, 1))
    assert status(slurm_app, "run-8-1") == "stopped"
    done = slurm_app.run(*sweep, "hydra.launcher.wait=true")
    assert done.returncode == 0, done.stderr
    assert not re.search(r"begins at 0\b", log(slurm_app, 1)), "it began anew"
    assert status(slurm_app, "run-8-1") == "finished"


def test_edits_after_queueing_do_not_reach_the_jobs(slurm_app):
    slurm_app.run(*SWEEP, "seed=1,2", "+hydra.launcher.sbatch_options.hold=true")
    (slurm_app.conf / "model/small.yaml").write_text(
        "_target_: app.Model\nhidden_size: 800\n", encoding="utf-8"
    )
    (slurm_app.folder / "app.py").write_text("raise RuntimeError\n", encoding="utf-8")
    [array] = {job.partition("_")[0] for job in queue()}
    assert "2 runs: 2 queued" in shown(slurm_app)
    assert "JobHeldUser" in shown(slurm_app)
    subprocess.run(["scontrol", "release", array], check=True)
    wait_until(lambda: not queue())
    assert [status(slurm_app, f"run-8-{seed}") for seed in (1, 2)] == ["finished"] * 2


def test_setup_lines_and_a_container_start_python(slurm_app):
    done = slurm_app.run(
        *SWEEP, "seed=1", "hydra.launcher.wait=true", 'hydra.launcher.container="env INSIDE=1"',
        "hydra.launcher.setup=['export OUTSIDE=2','echo set up $OUTSIDE']",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "set up 2" in log(slurm_app, 1)
    [script] = (slurm_app.output / "slurm").glob("*_submission.sh")
    assert re.search(
        r"srun .* env INSIDE=1 \S*python -u -m submitit", script.read_text(encoding="utf-8")
    )


def test_other_code_than_the_copy_is_refused(slurm_app):
    done = slurm_app.run(
        *SWEEP, "seed=1", "hydra.launcher.wait=true",
        "hydra.launcher.container=env -u PYTHONPATH -u PYTHONSAFEPATH",
    )  # fmt: skip
    assert done.returncode == 1
    assert "and not the copy made at submission" in done.stderr


def test_what_slurm_refuses_is_one_line(slurm_app):
    done = slurm_app.run(*SWEEP, "seed=1,2", "hydra.launcher.partition=nowhere")
    assert done.returncode == 2
    assert re.search(r"error: SLURM refuses the jobs: .*invalid partition.*; no trial was submi"
                        r"tted\n", done.stderr)  # fmt: skip
    assert not queue()
    assert not (slurm_app.output / "run-8-1").exists()


def test_gpus_that_are_not_there_are_refused_with_a_remedy(slurm_app):
    done = slurm_app.run(*SWEEP, "seed=1", "hydra.launcher.gpus_per_node=2")
    assert done.returncode == 2
    assert "(2 GPUs per node were requested; trainer=cpu requests none); no trial" in done.stderr


def test_what_is_saved_with_a_run(slurm_app):
    slurm_app.run(*SWEEP, "seed=1", "hydra.launcher.wait=true")
    record = read_record(slurm_app.output / "run-8-1")
    assert record is not None
    assert record.command == "python app.py -m hydra/launcher=slurm seed=1 hydra.launcher.wait=true"
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert record.commit == head.stdout.strip()
    with open(f"{record.code}/snapshot.json", encoding="utf-8") as file:
        assert json.load(file)["commit"] == record.commit
    assert "seed: 1" in (slurm_app.output / "run-8-1/job.yaml").read_text(encoding="utf-8")
