"""Sweeps with one process per trial, with real signals."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from mobilellm.launchers.local.launcher import LocalLauncher


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def starts(app, run: str) -> list[int]:
    path = app.output / run / "starts"
    return [int(line) for line in path.read_text(encoding="utf-8").split()] if path.exists() else []


def status(app, run: str) -> str:
    path = app.output / run / "summary.json"
    return json.loads(path.read_text(encoding="utf-8"))["status"] if path.exists() else "none"


def is_alive(pid: int) -> bool:
    """Whether the process runs and is not a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def end(process: subprocess.Popen[str]) -> str:
    _, err = process.communicate(timeout=30)
    return err


def test_bad_trials_end_no_other_and_what_is_missing_is_done_again(app):
    sweep = ("-m", "hydra/launcher=local", "seed=1,13,14,15,2")
    first = app.run(*sweep)
    assert first.returncode == 1
    assert first.stderr.endswith(
        "3 of 5 trials failed:\n"
        "  seed=13: seed=13 brings bad luck; use 14; log: out/logs/run-8-13.log\n"
        "  seed=14: KeyError: 'a defect'; log: out/logs/run-8-14.log\n"
        "  seed=15: killed by SIGKILL (often: out of memory); log: out/logs/run-8-15.log\n"
    )
    assert [status(app, f"run-8-{seed}") for seed in (1, 2)] == ["finished"] * 2
    killed = json.loads((app.output / "run-8-15" / "summary.json").read_text(encoding="utf-8"))
    assert killed["status"] == "failed"
    assert killed["error"].startswith("killed by SIGKILL")
    assert "begins at 0 threads 1" in (app.output / "logs" / "run-8-1.log").read_text(
        encoding="utf-8"
    )

    again = app.run(*sweep)
    assert "2 of 5 trials are finished, running 3, 2 at a time with 1 thread each" in again.stderr
    assert len(starts(app, "run-8-1")) == 1, "a finished trial ran again"
    assert status(app, "run-8-15") == "finished"
    assert "begins at 6" in (app.output / "logs" / "run-8-15.log").read_text(encoding="utf-8")


def test_an_experiment_chooses_the_launcher_and_the_sweep(app):
    done = app.run("-m", "experiment=sweep")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in app.output.glob("run-*")) == [
        "run-64-0", "run-64-1", "run-8-0", "run-8-1",
    ]  # fmt: skip
    assert "[4/4] finished" in done.stderr


def test_a_killed_trial_is_started_again_when_asked(app):
    done = app.run("-m", "hydra/launcher=local", "seed=15", "hydra.launcher.attempts=2")
    assert done.returncode == 0, done.stderr
    assert "starting seed=15 again: killed by SIGKILL" in done.stderr
    assert len(starts(app, "run-8-15")) == 2


@pytest.mark.parametrize(("number", "code"), [
    (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129),
])  # fmt: skip
def test_a_signal_lets_the_trials_save_and_says_how_to_go_on(app, number, code):
    process = app.start("-m", "hydra/launcher=local", "seed=1,2,3", "seconds=10")
    wait_until(lambda: starts(app, "run-8-1") and starts(app, "run-8-2"))
    # To the whole group, as a terminal sends Ctrl-C and as a cluster sends SIGTERM.
    os.killpg(process.pid, number)
    err = end(process)
    assert process.returncode == code
    assert "finish their step and save" in err
    assert "stopped: 0 of 3 finished, 2 stopped; run the same command again to continue" in err
    assert [status(app, f"run-8-{seed}") for seed in (1, 2, 3)] == ["stopped", "stopped", "none"]
    assert app.run("-m", "hydra/launcher=local", "seed=1,2,3").returncode == 0
    assert [status(app, f"run-8-{seed}") for seed in (1, 2, 3)] == ["finished"] * 3


def test_a_second_ctrl_c_kills(app):
    process = app.start("-m", "hydra/launcher=local", "seed=1,2", "seconds=600")
    wait_until(lambda: starts(app, "run-8-1") and starts(app, "run-8-2"))
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    end(process)
    assert time.monotonic() - begin < 120, "it waited for the trials, which take 600 s"
    assert process.returncode == 130
    assert not any(is_alive(starts(app, f"run-8-{seed}")[0]) for seed in (1, 2))


def test_no_trial_outlives_a_sweep_that_gets_sigkill(app):
    process = app.start("-m", "hydra/launcher=local", "seed=1,2", "seconds=600")
    wait_until(lambda: starts(app, "run-8-1") and starts(app, "run-8-2"))
    pids = [starts(app, f"run-8-{seed}")[0] for seed in (1, 2)]
    assert all(is_alive(pid) for pid in pids)
    process.kill()
    process.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in pids), seconds=5)
    # No old process writes into the folders while the next sweep continues from the saved state.
    assert app.run("-m", "hydra/launcher=local", "seed=1,2").returncode == 0
    assert len(starts(app, "run-8-1")) == 2


def test_no_trial_outlives_the_fork_server(app):
    process = app.start("-m", "hydra/launcher=local", "seed=1,2", "seconds=600")
    wait_until(lambda: starts(app, "run-8-1") and starts(app, "run-8-2"))
    pids = [starts(app, f"run-8-{seed}")[0] for seed in (1, 2)]
    with open(f"/proc/{pids[0]}/stat", encoding="utf-8") as file:
        server = int(file.read().rsplit(")", 1)[1].split()[1])
    os.kill(server, signal.SIGKILL)
    err = end(process)
    assert process.returncode == 1
    assert "2 of 2 trials failed" in err
    assert not any(is_alive(pid) for pid in pids)


def test_edits_after_the_start_do_not_reach_the_trials(app):
    process = app.start(
        "-m", "hydra/launcher=local", "seed=1,2", "hydra.launcher.n_jobs=1", "seconds=1"
    )
    wait_until(lambda: starts(app, "run-8-1"))
    (app.conf / "model" / "small.yaml").write_text(
        "_target_: app.Model\nhidden_size: 800\n", encoding="utf-8"
    )
    end(process)
    assert status(app, "run-8-2") == "finished"


@pytest.mark.parametrize("field", ["n_jobs", "threads_per_job", "attempts"])
@pytest.mark.parametrize("value", [0, -1, "two"])
def test_refuses_numbers_below_one(field, value):
    message = rf"hydra.launcher.{field}={value!r} must be a whole number of at least 1"
    with pytest.raises(ValueError, match=message):
        LocalLauncher(**{field: value})


def test_a_wrong_setting_of_the_launcher_is_one_line(app):
    done = app.run("-m", "hydra/launcher=local", "seed=1,2", "hydra.launcher.n_jobs=0")
    assert done.returncode == 2
    assert done.stderr == ("error: hydra.launcher.n_jobs=0 must be a whole number of at least 1\n")


def test_threads_do_not_depend_on_how_many_trials_are_left(monkeypatch):
    monkeypatch.setattr("mobilellm.launchers.local.launcher.usable_cores", lambda: 8)
    monkeypatch.setattr("mobilellm.launchers.local.launcher.visible_gpus", list)
    assert (LocalLauncher().n_jobs, LocalLauncher().threads) == (8, 1)
    assert LocalLauncher(n_jobs=2).threads == 4
    assert LocalLauncher(n_jobs=16).threads == 1
    monkeypatch.setattr("mobilellm.launchers.local.launcher.visible_gpus", lambda: ["0", "3"])
    assert (LocalLauncher().n_jobs, LocalLauncher().threads) == (2, 4)


def test_a_task_that_no_other_process_can_import():
    launcher = LocalLauncher(n_jobs=1)
    launcher.task_function = lambda cfg: None
    with pytest.raises(ValueError, match=r"needs a function that a new process can import"):
        launcher.launch([["seed=1"]], 0)


def test_a_refused_sweep_does_not_wait_for_what_its_trials_would_load(app):
    (app.folder / "slow_module.py").write_text("import time\ntime.sleep(300)\n", encoding="utf-8")
    begin = time.monotonic()
    done = app.run(
        "-m", "hydra/launcher=local", "seed=1,99", "hydra.launcher.preload=[slow_module]"
    )
    assert done.returncode == 2
    assert time.monotonic() - begin < 120
