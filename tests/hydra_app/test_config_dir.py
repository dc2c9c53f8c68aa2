"""A configuration folder of the user, sweeps without trials, and closed streams."""

import os
import subprocess
import sys

import pytest


def test_a_folder_of_the_users_own_is_found(app):
    own = app.folder / "my own conf's"
    (own / "model").mkdir(parents=True)
    (own / "model" / "mine.yaml").write_text(
        "_target_: app.Model\nhidden_size: 24\ncontext: 16\n", encoding="utf-8"
    )
    done = app.run("--config-dir", str(own), "model=mine", "seed=4")
    assert done.returncode == 0, done.stderr
    assert (app.output / "run-24-4" / "summary.json").is_file()
    swept = app.run("--config-dir", str(own), "-m", "model=mine,small", "hydra/launcher=local")
    assert swept.returncode == 0, swept.stderr
    assert (app.output / "run-24-0").is_dir() and (app.output / "run-8-0").is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-dir", "nowhere"], "error: --config-dir nowhere is not a folder; give one "),
        (["--config-dir", ".", "hydra.searchpath=[]"], "error: --config-dir and hydra.searchpath"),
        (["-m", "model=glob(tiny_nothing*)"],
         "error: the sweep has no trials: one of model=glob(tiny_nothing*) has no val"),
        (["-m", "seed=range(0,0)"], "error: the sweep has no trials: one of seed=range(0,0) has"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_exits_with_2(app, arguments, message):
    done = app.run(*arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not app.output.exists()


@pytest.mark.parametrize(
    ("arguments", "code"), [("seed=2", 0), ("model=nothing", 2), ("-m seed=1,2 >&-", 0)]
)
def test_closed_streams(app, arguments, code):
    line = f"{sys.executable} app.py {arguments} 2>&-"
    done = subprocess.run(
        ["/bin/sh", "-c", line], cwd=app.folder, capture_output=True, text=True, timeout=60,
        check=False, env={**os.environ, "APP_OUTPUT": str(app.output)},
        encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == code, done
    assert "Traceback" not in done.stdout + done.stderr


def test_a_reader_of_errors_that_has_gone(app):
    line = f"{sys.executable} app.py model=nothing 2>&1 >/dev/null | true"
    done = subprocess.run(
        ["/bin/bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"], cwd=app.folder, timeout=60,
        check=False, env={**os.environ, "APP_OUTPUT": str(app.output)},
    )  # fmt: skip
    assert done.returncode == 2
