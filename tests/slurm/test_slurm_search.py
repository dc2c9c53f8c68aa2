"""A search whose trials are SLURM jobs."""

import json
import subprocess
import sys

import pytest
from slurm_jobs import ROOT, queue, wait_until

from mobilellm.run_folder import read_summary

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SETTINGS = (
    "model=by_shape", "model.vocab_size=512", "data=text", "data.held_out=0.2", "trainer=cpu",
    "search_space.model.num_blocks=[1,2,3]", "search_space.model.hidden_size.low=32",
    "search_space.model.hidden_size.high=64", "search.n_trials=3", "search.sampler=random",
    "search.finalists=1", "search.final_seeds=[0]", "search.final_tokens=512",
    "sequence_length=32", "tokens_per_step=64", "max_tokens=512", "validation_tokens=128",
    "optimizer.learning_rate=1e-2", "callbacks.run_summary=null", "callbacks.progress=null",
    "hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.time_minutes=10",
    "hydra.launcher.array_parallelism=2", "hydra.launcher.poll_seconds=0.5",
)  # fmt: skip


def start(*overrides):
    return subprocess.Popen(
        [sys.executable, "scripts/search.py", *SETTINGS, *overrides], cwd=ROOT,
        stderr=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip


def test_its_trials_are_jobs_and_a_second_controller_waits_for_them(
    slurm, corpus, prepared_dir, tmp_path
):
    given = (
        f"data.train={corpus}", f"prepared_dir={prepared_dir}", f"output_dir={tmp_path}",
        "experiment_name=jobs",
    )  # fmt: skip
    first = start(*given)
    wait_until(lambda: len(queue()) == 2, 120)
    before = queue().keys()
    first.send_signal(2)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 130, err
    assert "the jobs keep running" in err

    second = start(*given)
    _, err = second.communicate(timeout=600)
    assert second.returncode == 0, err[-3000:]
    folder = tmp_path / "jobs"
    trials = [json.loads(p.read_text("utf-8")) for p in folder.glob("search/trials/*.json")]
    runs = {trial["run"] for trial in trials}
    assert len(runs) == len(trials) == 3
    jobs = {json.loads((folder / run / "job.json").read_text("utf-8"))["job_id"] for run in runs}
    assert len(jobs) == 3 and before <= jobs, "a queued trial was submitted twice"
    statuses = [(read_summary(folder / run) or {})["status"] for run in runs]
    assert statuses == ["finished"] * 3
    [final] = (tmp_path / "jobs_finalists").glob("*/job.json")
    assert (read_summary(final.parent) or {})["status"] == "finished"
