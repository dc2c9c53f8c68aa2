"""How ranks end, without training: what counts is what they report, not how their process dies."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from omegaconf import OmegaConf

from mobilellm.pipeline import rank_processes
from mobilellm.pipeline.rank_processes import RankDied
from mobilellm.run_folder import read_summary, write_summary

ROOT = Path(__file__).parents[2]
# Reads what a rank is given, reports as `outcome` says, and aborts.
PROGRAM = """
import os, pickle, sys
from mobilellm.pipeline.rank_report import Report
cfg, _, rank, path = pickle.load(sys.stdin.buffer)
outcome = cfg.outcomes[rank]
if outcome != "nothing":
    error = None if outcome == "done" else ValueError(outcome)
    path.write_bytes(pickle.dumps(Report(rank, rank, error)))
os.abort()
"""
# As a rank that waits in an exchange for one that does not come.
DEAF = """
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
open(f"{cfg.folder}/deaf{rank}.tmp", "w").write(str(os.getpid()))
os.rename(f"{cfg.folder}/deaf{rank}.tmp", f"{cfg.folder}/deaf{rank}")
time.sleep(600)
"""


def end_of(outcomes, folder, monkeypatch):
    """What a run comes to whose ranks abort after these reports."""
    monkeypatch.setattr(rank_processes, "PROGRAM", PROGRAM)
    ranks = rank_processes._Ranks(len(outcomes), folder)
    with ranks.started(OmegaConf.create({"outcomes": outcomes})):
        ranks.wait()
    return ranks.error()


def stopped_by(numbers, folder, monkeypatch):
    """What a run on ranks that hear no signal comes to, told to stop; how often it was told."""
    deaf = PROGRAM.replace("outcome = ", f"import signal, time{DEAF}outcome = ")
    monkeypatch.setattr(rank_processes, "PROGRAM", deaf)
    write_summary(folder / "run", {"status": "running", "tokens": 5})
    trainer = SimpleNamespace(num_nodes=1, world_size=2)
    run = SimpleNamespace(folder=folder / "run", trainer=trainer)

    def send():
        wait_until(lambda: len(list(folder.glob("deaf*"))) == 2)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.2)

    thread = threading.Thread(target=send)
    thread.start()
    cfg = OmegaConf.create({"outcomes": ["done", "done"], "folder": str(folder)})
    with pytest.raises(KeyboardInterrupt) as stopped:
        rank_processes.train_on_ranks(cfg, run)
    thread.join()
    assert read_summary(folder / "run") == {"status": "stopped", "tokens": 5, "error": None}
    for path in folder.glob("deaf*"):
        assert not psutil.pid_exists(int(path.read_text(encoding="utf-8")))
    return stopped.value


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_kills_ranks_that_hang(tmp_path, monkeypatch, first):
    stop = stopped_by([first, signal.SIGINT], tmp_path, monkeypatch)
    assert stop.signal_number == signal.SIGINT
    assert "killed by SIGINT, because the ranks did not exit by themselves" in str(stop)


def test_one_signal_gives_ranks_that_hang_a_period_of_grace(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_processes, "SIGNAL_GRACE_SECONDS", 1.0)
    begin = time.monotonic()
    stop = stopped_by([signal.SIGTERM], tmp_path, monkeypatch)
    assert stop.signal_number == signal.SIGTERM
    assert time.monotonic() - begin > 1.0


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


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
def test_ranks_end_without_an_abort(tiny_overrides, tiny_run_folder, tmp_path, strategy):
    """Two runs at a time, so that processes end at all the moments that a busy machine gives.

    Their data were prepared for the run of `tiny_run_folder`.
    """
    two = [f"trainer={strategy}", "trainer.accelerator=cpu", "trainer.devices=2", "max_tokens=384"]
    mine = [override for override in tiny_overrides if override != "trainer=cpu"]
    command = [sys.executable, "scripts/train.py", *mine, *two]

    def end(number):
        line = [*command, f"experiment_name=run{number}"]
        return subprocess.run(
            line, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False,
            env=os.environ | {"PYTHONFAULTHANDLER": "1", "OMP_NUM_THREADS": "1"},
            encoding="utf-8",
        )  # fmt: skip

    with ThreadPoolExecutor(2) as several:
        ends = list(several.map(end, range(2)))
    for done in ends:
        assert done.returncode == 0, done.stderr[-3000:]
        assert "terminate called" not in done.stderr
        assert "Aborted" not in done.stderr
    assert len(list(tmp_path.glob("outputs/*/*/model/model.safetensors"))) == 2
