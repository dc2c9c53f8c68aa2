"""Jobs that are known beforehand, as a feed."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mobilellm.launchers.job_feed import ListedJobs
from mobilellm.launchers.local.jobs import Job, Outcome
from mobilellm.run_folder import write_summary


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """Four jobs, of which the second is finished."""
    made = [
        Job(f"job {n}", OmegaConf.create(), tmp_path / str(n), tmp_path / "log") for n in "0123"
    ]
    for job in made:
        assert job.folder is not None
        job.folder.mkdir()
    write_summary(tmp_path / "1", {"status": "finished"})
    return made


def test_each_unfinished_job_runs_once_and_a_killed_one_again(jobs: list[Job]):
    feed = ListedJobs(jobs, attempts=2)
    assert (feed.counts.total, feed.counts.skipped) == (4, 1)
    kills = {"job 2": 1, "job 3": 5}
    started = []
    while (job := feed.next_job()) is not None:
        assert not feed.is_done()
        started.append(job.name)
        if kills.get(job.name, 0) >= started.count(job.name):
            outcome = Outcome(job, "failed", "killed by SIGKILL", is_killed=True)
        else:
            outcome = Outcome(job, "finished")
        line = feed.ended(outcome)
        assert line is not None and job.name in line
    assert feed.is_done()
    assert sorted(started) == ["job 0", "job 2", "job 2", "job 3", "job 3"]
    assert [one.status for one in feed.outcomes] == ["finished", "skipped", "finished", "failed"]
    assert feed.counts.line() == "3 of 4 finished (1 already), 1 failed"
