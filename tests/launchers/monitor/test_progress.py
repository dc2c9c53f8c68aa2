"""The state of runs as read from their files, which may be missing or incomplete."""

import io
import json
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from mobilellm.launchers.monitor.overview import Counts, Overview, RunningTrial, progress_text
from mobilellm.launchers.monitor.progress import Progress, read_progress
from mobilellm.launchers.monitor.status import find_runs, status_table
from mobilellm.launchers.slurm.record import JobRecord, read_record, write_record
from mobilellm.units import elapsed_text

COLUMNS = "step,tokens,train/loss,val/loss"


def make_run(folder: Path, rows: list[str], summary: dict | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.csv").write_text("\n".join([COLUMNS, *rows]), encoding="utf-8")
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


def shown(folder: Path, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(status_table(folder))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_last_whole_value_of_each_column_counts(tmp_path: Path):
    rows = ["10,1000,5.5,", "20,2000,5.0,5.25", "30,3000,4.5,", "40,40"]
    run = make_run(tmp_path, rows, {"status": "running", "max_tokens": 6000})
    progress = read_progress(run)
    assert (progress.step, progress.tokens, progress.train_loss) == (30, 3000, 4.5)
    assert (progress.val_loss, progress.share, progress.status) == (5.25, 0.5, "running")


def test_only_the_end_of_a_long_file_is_read(tmp_path: Path, monkeypatch):
    rows = [f"{step},{step * 100},{9 - step / 1000:.3f}," for step in range(1, 5000)]
    run = make_run(tmp_path, [*rows, ""])
    monkeypatch.setattr("mobilellm.launchers.monitor.progress.TAIL_BYTES", 300)
    progress = read_progress(run)
    assert (progress.step, progress.tokens, progress.train_loss) == (4999, 499_900, 4.001)


def test_a_finished_run_reports_its_summary(tmp_path: Path):
    summary = {"status": "finished", "steps": 31, "tokens": 3100, "max_tokens": 3100,
               "val_loss": 4.75}  # fmt: skip
    progress = read_progress(make_run(tmp_path, ["30,3000,4.5,5.0", ""], summary))
    assert (progress.step, progress.tokens, progress.val_loss) == (31, 3100, 4.75)
    assert progress.share == 1.0


@pytest.mark.parametrize(
    ("limits", "share"),
    [
        ({"max_tokens": 1_000_000, "max_steps": 40}, 0.75),
        ({"max_tokens": None, "max_steps": None, "max_seconds": 10.0}, 0.5),
        ({"max_tokens": 3_050, "tokens_per_step": 100}, 1.0),
        ({"max_tokens": 4_000, "max_steps": 30}, 1.0),
        ({}, None),
    ],
)
def test_progress_is_that_of_the_limit_that_ends_the_run(tmp_path: Path, limits, share):
    run = make_run(tmp_path, [], {"status": "running", **limits})
    (run / "metrics.csv").write_text("step,tokens,seconds\n30,3000,5.0\n", encoding="utf-8")
    assert read_progress(run).share == share


@pytest.mark.parametrize("text", ["", "{", '{"status": "runni'])
def test_half_a_summary_is_no_error(tmp_path: Path, text: str):
    run = make_run(tmp_path, ["30,3000,4.5,", ""])
    (run / "summary.json").write_text(text, encoding="utf-8")
    assert read_progress(run).status == "running"


def test_nothing_there_yet(tmp_path: Path):
    assert read_progress(None) == Progress()
    assert read_progress(tmp_path / "none").status == "waiting"
    assert progress_text(Progress()) == "starting"


def test_status_of_a_sweep(tmp_path: Path):
    make_run(tmp_path / "a", ["20,2000,5.0,5.25", ""], {"status": "running", "max_tokens": 8000})
    make_run(tmp_path / "b", [""], {"status": "failed", "error": "lr=[0] must be positive"})
    done = {"status": "finished", "steps": 40, "tokens": 8000, "max_tokens": 8000, "val_loss": 4.0}
    make_run(tmp_path / "deep" / "c", ["40,8000,4.1,4.0", ""], done)
    old = time.time() - 7200
    for file in (tmp_path / "a").iterdir():
        os.utime(file, (old, old))
    text = shown(tmp_path)
    assert "silent" in text
    assert "25 %" in text
    assert "2:00 h" in text
    assert "b: lr=[0] must be positive" in text
    assert any(line.strip() == "deep" for line in text.splitlines())
    assert "4.000" in text
    assert "3 runs: 1 finished, 1 failed, 1 running" in text
    assert find_runs(tmp_path / "deep" / "c") == [tmp_path / "deep" / "c"]


def make_sweep(folder: Path, files: str) -> None:
    """Two seeds of two shapes, as `train.py -m` leaves them, and a learning-rate probe."""
    for number, (blocks, seed) in enumerate([(2, 0), (2, 1), (16, 0), (16, 1)]):
        overrides = [
            f"model.num_blocks={blocks}", f"seed={seed}", "data=text", "max_tokens=2e5",
            f"data.train={files}", "output_dir=out", "optimizer.learning_rate=1e-3",
        ]  # fmt: skip
        run = make_run(
            folder / f"num_blocks-{blocks}_seed-{seed}-0a1b2c3{number}", [],
            {"status": "running" if number < 3 else "failed", "overrides": overrides,
             "max_tokens": 200_000, "tokens_per_step": 2048,
             "error": "ValueError: a long reason " * 5 if number == 3 else None},
        )  # fmt: skip
        columns = "step,tokens,train/loss,val/loss,tokens_per_second"
        row = f"{50 * number},{198_656 * number // 3},12.3456,9.8765,12345.6"
        (run / "metrics.csv").write_text("\n".join([columns, row, ""]), encoding="utf-8")
        old = time.time() - 40_000
        for file in run.iterdir():
            os.utime(file, (old, old))
    probe = {"status": "finished", "overrides": ["optimizer.learning_rate=0.01"], "steps": 9}
    make_run(folder / "probes" / "learning_rate-0.01-99999999", ["9,9,9.0,9.0", ""], probe)


def test_a_sweep_has_a_column_a_swept_key_and_fits_80_columns(tmp_path: Path):
    files = "[" + ",".join(f"corpus/part-{n}.txt" for n in range(20)) + "]"
    make_sweep(tmp_path / "sweep", files)
    lines = shown(tmp_path / "sweep", width=80).splitlines()
    rows = [line.split() for line in lines]
    assert [line.strip() for line in lines[:2]] == [
        "data=text max_tokens=2e5 data.train=20 values optimizer.learning_rate=1e-3",
        "run       num_blocks  seed  status  step   done   tok/s   train    val      age",
    ]
    assert rows[2][:6] == ["0a1b2c30", "2", "0", "silent", "0", "0"]
    assert rows[4][:7] == ["0a1b2c32", "16", "0", "silent", "100", "67", "%"]
    assert rows[4][7:] == ["12.3", "k", "12.346", "9.877", "11:06", "h"]
    assert rows[5][:5] == ["0a1b2c33", "16", "1", "failed", "150"]
    assert lines[6].startswith("0a1b2c33: ValueError: a long reason")
    assert max(map(len, lines)) <= 80
    assert "probes: optimizer.learning_rate=0.01" in "\n".join(lines)
    assert lines[-1].startswith("5 runs: 1 finished, 1 failed, 3 running")


def test_runs_that_are_no_sweep_have_their_names(tmp_path: Path):
    for number in range(6):
        overrides = [f"key{other}={number == other}" for other in range(6)]
        summary = {"status": "finished", "overrides": overrides}
        make_run(tmp_path / f"run-0000000{number}", [], summary)
    text = shown(tmp_path, width=80)
    assert all(f"run-0000000{number} " in text for number in range(6))
    assert "key1" not in text


def test_status_where_slurm_does_not_answer(tmp_path: Path, monkeypatch):
    """Values from the files are still shown: job, rate, log."""
    run = make_run(tmp_path / "a", [], {"status": "running", "max_tokens": 8000})
    (run / "metrics.csv").write_text(
        "step,tokens,tokens_per_second\n20,2000,1234.5\n", encoding="utf-8"
    )
    (tmp_path / "12_3_0_log.out").write_text("", encoding="utf-8")
    record = JobRecord(
        job_id="12_3", log=str(tmp_path / "12_3_0_log.out"), code="code", commit=None, dirty=None,
        command="python scripts/train.py", submitted_at="2026-01-01",
    )  # fmt: skip
    write_record(run, record)
    write_record(tmp_path / "b", record)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    text = shown(tmp_path)
    assert "from the files of the runs only: squeue is not found" in " ".join(text.split())
    assert "1.23 k" in text
    assert "a: log: 12_3_0_log.out" in text
    assert "2 runs: 1 running, 1 waiting" in text


def test_a_damaged_job_record(tmp_path: Path):
    (tmp_path / "job.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"job.json is damaged .*; make sure that no job is"):
        read_record(tmp_path)


def test_a_folder_without_runs(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist; give a run's or a sw"):
        find_runs(tmp_path / "nowhere")
    (tmp_path / "text.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"text\.txt is a file; give a run's or a sweep's"):
        find_runs(tmp_path / "text.txt")
    with pytest.raises(FileNotFoundError, match=r"no run in .*: no summary.json at or below it"):
        find_runs(tmp_path)


def test_the_overview_in_a_terminal_shows_the_running_trials(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("mobilellm.launchers.monitor.overview.REFRESH_SECONDS", 0.0)
    run = make_run(tmp_path, ["20,2000,5.0,5.25", ""], {"status": "running", "max_tokens": 8000})
    counts = Counts(total=4, finished=2, skipped=1, failed=1)
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Overview(counts, console) as overview:
        overview.print_line("started seed=1")
        overview.refresh([RunningTrial("a=1 seed=1", run, 65.0, ("model.a=2e4", "seed=1"))])
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for part in ("started seed=1", "25 %", "5.250", "1:05 min", "2e4", "a", "seed"):
        assert part in text
    assert "3 of 4 finished (1 already), 1 failed" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.9, "59 s"), (185, "3:05 min"), (7800, "2:10 h")]
)
def test_durations(seconds: float, text: str):
    assert elapsed_text(seconds) == text
