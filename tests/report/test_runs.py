"""Reading run folders: what is found, what is left out, and why."""

import json
import math

import pytest
from simulated_sweep import model, summary, write_run, write_sweep

from mobilellm.report.curves import Points, mean_curve
from mobilellm.report.runs import read_runs


def test_a_sweep_is_read_whole(tmp_path):
    runs = read_runs([write_sweep(tmp_path / "sweep")])
    assert len(runs.finished) == 18
    assert runs.left_out == () and runs.num_probes == 0
    run = runs.finished[0]
    facts = json.loads((run.folder / "summary.json").read_text(encoding="utf-8"))
    assert run.val_loss == facts["val_loss"] and run.model.to_dict() == facts["model"]
    assert run.parameters == facts["parameters"]
    assert run.fact("versions.torch") == "2.13.0" and run.fact("versions.none.deeper") is None
    assert run.number("device") is None and run.number("threads") == 2
    assert len(run.curve.validation) == 20 and len(run.curve.training) == 40
    assert run.curve.validation.loss[-1] == pytest.approx(run.val_loss)


def test_one_run_folder_or_a_file_in_it(tmp_path):
    folder = write_run(tmp_path / "run", summary(model()))
    assert len(read_runs([folder]).finished) == 1
    assert len(read_runs([folder / "summary.json"]).finished) == 1
    (tmp_path / "text.txt").touch()
    with pytest.raises(ValueError, match=r"text\.txt is a file; give a run or sweep folder"):
        read_runs([folder, tmp_path / "text.txt"])


def test_a_run_given_twice_counts_once(tmp_path):
    write_sweep(tmp_path / "sweep", seeds=(0,))
    (tmp_path / "link").symlink_to(tmp_path / "sweep")
    assert len(read_runs([tmp_path, tmp_path / "sweep", tmp_path / "link"]).finished) == 6


def test_probes_are_passed_over_unless_asked_for(tmp_path):
    write_run(tmp_path / "a", summary(model()))
    write_run(tmp_path / "a" / "probes" / "x", summary(model(), seed=1000))
    runs = read_runs([tmp_path])
    assert len(runs.finished) == 1 and runs.num_probes == 1
    assert len(read_runs([tmp_path / "a" / "probes"]).finished) == 1


def test_hidden_folders_are_no_runs(tmp_path):
    folder = write_run(tmp_path / "a", summary(model()))
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").write_text("a: 1", encoding="utf-8")
    runs = read_runs([tmp_path])
    assert len(runs.finished) == 1 and not runs.left_out


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"status": "failed", "error": "ValueError: no\nmore"}, "failed", "ValueError: no"),
        ({"status": "failed", "error": None}, "failed", "no error was recorded"),
        (
            {"status": "stopped", "tokens": 250_000, "max_tokens": 1_000_000},
            "stopped",
            "at 25% of its tokens; continue it with resume=true",
        ),
        (
            {"status": "running", "tokens": None},
            "running",
            "it is still running, or was killed: continue it with resume=true",
        ),
        ({"val_loss": math.nan}, "diverged", "val_loss=nan is not finite"),
        ({"val_loss": None}, "diverged", "val_loss=None is not finite"),
        ({"seed": None}, "unreadable", "seed=None in summary.json must be a number; run it again"),
        (
            {"model": {"hidden": 1}},
            "unreadable",
            "model field='hidden' is not known; use one of hidden_size",
        ),
    ],
)
def test_unfinished_runs_are_listed_apart(tmp_path, changes, status, reason):
    write_run(tmp_path / "good", summary(model()))
    folder = write_run(tmp_path / "bad", summary(model()))
    facts = json.loads((folder / "summary.json").read_text(encoding="utf-8")) | changes
    (folder / "summary.json").write_text(json.dumps(facts), encoding="utf-8")
    runs = read_runs([tmp_path])
    assert len(runs.finished) == 1
    (left_out,) = runs.left_out
    assert (left_out.folder, left_out.status) == (folder, status)
    assert left_out.reason.startswith(reason)


def test_broken_files_are_listed_apart(tmp_path):
    write_run(tmp_path / "good", summary(model()))
    (write_run(tmp_path / "half", summary(model())) / "summary.json").write_text(
        "{", encoding="utf-8"
    )
    (write_run(tmp_path / "new", summary(model())) / "summary.json").unlink()
    (write_run(tmp_path / "yaml", summary(model())) / "config.yaml").write_text(
        "a: [", encoding="utf-8"
    )
    short = summary(model())
    del short["tokens"]
    write_run(tmp_path / "short", summary(model()))
    (tmp_path / "short" / "summary.json").write_text(json.dumps(short), encoding="utf-8")
    reasons = {run.folder.name: run.reason for run in read_runs([tmp_path]).left_out}
    assert "is not JSON" in reasons["half"] and "is not YAML" in reasons["yaml"]
    assert reasons["new"] == "it has no summary.json; start it again"
    assert reasons["short"] == "'tokens' is missing in summary.json"


def test_a_path_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing does not exist; give a run or sweep"):
        read_runs([tmp_path / "nothing"])


def test_no_run_found(tmp_path):
    with pytest.raises(ValueError, match=r"no run found in .*; give run folders .*summary.json"):
        read_runs([tmp_path])
    write_run(tmp_path / "probes" / "x", summary(model()))
    with pytest.raises(ValueError, match=r"no run found in .* \(1 learning-rate probes only\)"):
        read_runs([tmp_path])


def test_no_run_finished(tmp_path):
    write_run(tmp_path / "a", summary(model(), status="failed"))
    write_run(tmp_path / "b", summary(model(), status="running"))
    message = r"none of the 2 runs in .* is finished \(a: failed, b: running\); continue them"
    with pytest.raises(ValueError, match=message):
        read_runs([tmp_path])


def test_a_run_without_metrics_or_config_is_still_compared(tmp_path):
    folder = write_run(tmp_path / "a", summary(model()))
    (folder / "metrics.csv").unlink()
    (folder / "config.yaml").unlink()
    (run,) = read_runs([tmp_path]).finished
    assert run.config == {} and len(run.curve.validation) == 0


def test_rows_logged_again_and_broken_rows(tmp_path):
    folder = write_run(tmp_path / "a", summary(model()))
    (folder / "metrics.csv").write_text(
        "step,tokens,seconds,train/loss,val/loss\n"
        "1,100,1.0,,5.0\n2,200,2.0,4.5,\n1,100,1.5,,4.9\n3,300,3.0,nan,4.0\nx,y\n",
        encoding="utf-8",
    )
    curve = read_runs([tmp_path]).finished[0].curve
    assert curve.validation == Points((100.0, 300.0), (1.5, 3.0), (4.9, 4.0))
    assert curve.training == Points((200.0,), (2.0,), (4.5,))


def test_mean_curve_reads_off_between_points():
    first = Points((0.0, 10.0, 20.0), (0.0, 1.0, 2.0), (6.0, 5.0, 4.0))
    second = Points((0.0, 5.0, 20.0, 30.0), (0.0, 1.0, 4.0, 6.0), (6.0, 5.0, 2.0, 1.0))
    found = mean_curve([first, second])
    assert found.tokens.tolist() == [0, 10, 20]
    assert found.mean.tolist() == [6, 4.5, 3] and found.low.tolist() == [6, 4, 2]
    assert found.high.tolist() == [6, 5, 4] and found.seconds.tolist() == [0, 1.5, 3]


def test_mean_curve_of_nothing_common():
    assert mean_curve([]) is None
    assert mean_curve([Points(), Points((1.0,), (1.0,), (1.0,))]) is None
    ahead, behind = Points((1.0,), (1.0,), (1.0,)), Points((2.0,), (1.0,), (1.0,))
    assert mean_curve([ahead, behind]) is None
