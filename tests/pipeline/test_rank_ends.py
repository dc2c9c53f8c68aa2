"""How ranks end, without training: what counts is what they report, not how their process dies."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mobilellm.pipeline import rank_processes
from mobilellm.pipeline.rank_processes import RankDied

ROOT = Path(__file__).parents[2]
# Reads what a rank is given, reports as `outcome` says, and aborts.
PROGRAM = """
import os, pickle, sys
from mobilellm.pipeline.rank import Report
cfg, _, rank, path = pickle.load(sys.stdin.buffer)
outcome = cfg.outcomes[rank]
if outcome != "nothing":
    error = None if outcome == "done" else ValueError(outcome)
    path.write_bytes(pickle.dumps(Report(rank, rank, error)))
os.abort()
"""


def end_of(outcomes, folder, monkeypatch):
    """What a run comes to whose ranks abort after these reports."""
    monkeypatch.setattr(rank_processes, "PROGRAM", PROGRAM)
    ranks = rank_processes._Ranks(len(outcomes), folder)
    with ranks.started(OmegaConf.create({"outcomes": outcomes})):
        ranks.wait()
    return ranks.error()


def test_a_rank_that_aborts_after_its_work_is_no_failure(tmp_path, monkeypatch):
    assert end_of(["done", "done"], tmp_path, monkeypatch) is None


def test_a_rank_that_aborts_in_its_work_is_one(tmp_path, monkeypatch):
    error = end_of(["nothing", "nothing"], tmp_path, monkeypatch)
    assert isinstance(error, RankDied)
    assert re.match(r"rank \d of 2 was killed by SIGABRT, which ended the run", str(error))


def test_what_a_rank_reports_counts_more_than_how_it_ends(tmp_path, monkeypatch):
    error = end_of(["its own words", "its own words"], tmp_path, monkeypatch)
    assert str(error) == "its own words"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_ranks_end_without_an_abort(tiny_overrides, tmp_path, strategy):
    """Five runs at a time, so that processes end at all the moments that a busy machine gives."""
    two = [f"trainer={strategy}", "trainer.accelerator=cpu", "trainer.devices=2", "max_tokens=384"]
    mine = [override for override in tiny_overrides if override != "trainer=cpu"]
    command = [sys.executable, "scripts/train.py", *mine, *two]

    def end(number):
        line = [*command, f"experiment_name=run{number}"]
        return subprocess.run(
            line, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False,
            env=os.environ | {"PYTHONFAULTHANDLER": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    ends = [end(0)]
    with ThreadPoolExecutor(5) as several:
        ends += several.map(end, range(1, 6))
    for done in ends:
        assert done.returncode == 0, done.stderr[-3000:]
        assert "terminate called" not in done.stderr
        assert "Aborted" not in done.stderr
    assert len(list(tmp_path.glob("outputs/*/*/model/model.safetensors"))) == 6
