"""How the jobs of a search ended, from what their runs and SLURM say."""

from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mobilellm.launchers.local.jobs import Job
from mobilellm.launchers.slurm.feed import outcome_of
from mobilellm.launchers.slurm.record import JobRecord, write_record
from mobilellm.launchers.slurm.state import RunState, run_states
from mobilellm.run_folder import write_summary

RECORD = JobRecord(job_id="7_0", log="slurm/7_0_0_log.out", code="code", commit=None, dirty=None,
                   command="", submitted_at="")  # fmt: skip


@pytest.mark.parametrize(
    ("state", "status", "is_killed"),
    [
        (RunState(status="finished"), "finished", False),
        (RunState(status="pruned"), "pruned", False),
        (RunState(status="stopped", reason="job 7_0: COMPLETED"), "stopped", False),
        (RunState(status="stopped", reason="job 7_0: CANCELLED"), "failed", True),
        (RunState(status="failed", reason="it diverged",
                  record=replace(RECORD, error="it diverged")), "failed", False),
        (RunState(status="failed", reason="job 7_0 ended as NODE_FAIL", record=RECORD),
         "failed", True),
    ],
)  # fmt: skip
def test_what_ended_a_job_decides_whether_it_may_start_again(state, status, is_killed):
    job = Job("trial", OmegaConf.create(), Path("run"), Path("log"))
    found = outcome_of(job, state)
    assert (found.status, found.is_killed) == (status, is_killed)
    if status == "failed":
        assert found.error is not None and (state.reason or "") in found.error
        assert state.record is None or "log: slurm/7_0_0_log.out" in found.error


def test_a_pruned_run_is_complete_without_asking_slurm(tmp_path):
    write_summary(tmp_path, {"status": "pruned"})
    write_record(tmp_path, RECORD)
    assert run_states([tmp_path])[tmp_path].status == "pruned"
