"""The command line of a Hydra application, run in separate processes."""

import signal
import time

import pytest


def files_of(app):
    """The files in the folder, without the application's own."""
    return sorted(
        str(path.relative_to(app.folder))
        for path in app.folder.rglob("*")
        if path.is_file() and "conf" not in path.parts and "__pycache__" not in path.parts
    )


def test_a_run_writes_its_own_files_only(app):
    done = app.run("seed=2", "model=large")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert files_of(app) == [
        "app.py", "out/run-64-2/starts", "out/run-64-2/state", "out/run-64-2/summary.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["seed=13"], 2, "error: seed=13 brings bad luck; use 14\n"),
        (["model=lrge"], 2, "error: model=lrge is not known; use one of large, small\n"),
        (["-m", "seed=0,1", "sed=2"], 2, "error: sed is not known; nearest: seed"),
        (["-m", "seed=0,99", "model=small,large"], 2,
         "error: trial seed=99 model=small: seed=99 is refused; use another (and 1 more trials); "
         "no trial was started\n"),
        (["-m", "seed=0,1,0"], 2, "error: trials 'seed=0' and 'seed=0' are the same run ("),
        (["-m", "seed=0,1", "data=required"], 2,
         "error: trial seed=0: data.train is required and not given; "
         "set data.train=… (and 1 more trials); no trial was started\n"),
        (["seed=0,1"], 2, "error: Ambiguous value for argument 'seed=0,1'"),
        (["seed=14"], 1, "Traceback"),
    ],
)  # fmt: skip
def test_errors_start_nothing_and_say_what_to_do(app, arguments, code, message):
    done = app.run(*arguments)
    assert done.returncode == code
    assert done.stderr.startswith(message)
    assert code == 1 or done.stderr.count("\n") == 1
    assert not list(app.folder.rglob("starts"))
    assert "multirun" not in {path.name for path in app.folder.iterdir()}


def test_a_failing_trial_does_not_end_a_sweep_in_one_process(app):
    done = app.run("-m", "seed=13,14,2")
    assert done.returncode == 1
    assert (app.output / "run-8-2" / "summary.json").exists()
    assert "failed: seed=13: seed=13 brings bad luck; use 14\n" in done.stderr
    assert done.stderr.endswith(
        "2 of 3 trials failed:\n"
        "  seed=13: seed=13 brings bad luck; use 14\n"
        "  seed=14: KeyError: 'a defect'\n"
    )


def test_batches_go_on_after_a_failure(app):
    done = app.run("-m", "seed=13,2,3", "hydra.sweeper.max_batch_size=1")
    assert done.returncode == 1
    assert (app.output / "run-8-3" / "summary.json").exists()


def test_a_signal_ends_a_sweep_in_one_process_after_the_trial_saved(app):
    process = app.start("-m", "seed=1,2", "seconds=10")
    while not (app.output / "run-8-1" / "state").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "stopped after step" in err.splitlines()[-1]
    assert not (app.output / "run-8-2").exists()


def test_ctrl_c_that_a_library_made_an_exit_code_ends_the_sweep_too(app):
    done = app.run("-m", "seed=16,2")
    assert done.returncode == 130
    assert not (app.output / "run-8-2").exists()


def test_help_is_ours_and_imports_nothing_heavy(app, monkeypatch):
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    done = app.run("--help")
    assert "hydra" in done.stderr
    for heavy in ("torch", "lightning", "datasets", "wandb"):
        assert f"| {heavy}\n" not in done.stderr
    assert done.returncode == 0
    assert done.stdout.startswith("Pretends to train.\n\nExample:\n  python app.py seed=2\n")
    assert "  model           large, small\n" in done.stdout
    assert "  hydra/launcher  basic, local\n" in done.stdout
    assert "  # Seed of the weights.\n  seed: 0\n" in done.stdout


def test_hydras_flags_still_work(app):
    config = app.run("--cfg", "job", "model=large")
    assert config.returncode == 0
    assert "hidden_size: 64" in config.stdout
    assert "seed: 3\n" in app.run("--cfg", "job", "seed=3", "+new=1").stdout
    # Flags may stand between the settings.
    assert "seed: 3\n" in app.run("model=large", "--cfg", "job", "seed=3").stdout
    assert "model/small" in app.run("--info", "defaults").stdout
    assert "== Flags ==" in app.run("--hydra-help").stdout
    assert files_of(app) == ["app.py"]
