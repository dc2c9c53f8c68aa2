"""Sweeps of a package that is installed from a wheel: no clone, no scripts/, conf/ inside it."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from slurm_jobs import ROOT

from mobilellm.launchers.slurm.record import read_record
from mobilellm.run_folder import read_summary

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# As the installer writes it.
PROGRAM = """
    from mobilellm.__main__ import main
    if __name__ == "__main__":
        main()
    """


@pytest.fixture
def installed(tmp_path: Path):
    """Run `mobilellm train` of a package that is laid out as the wheel installs it."""
    site, program = tmp_path / "site-packages", tmp_path / "bin" / "mobilellm"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "mobilellm", site / "mobilellm", ignore=ignored)
    shutil.copytree(ROOT / "conf", site / "mobilellm" / "conf", dirs_exist_ok=True)
    program.parent.mkdir()
    program.write_text(textwrap.dedent(PROGRAM), encoding="utf-8")

    def run(*overrides: str) -> subprocess.CompletedProcess[str]:
        environment = {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, program, "train", "-m", *overrides],
            cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True,
            check=False, timeout=400, encoding="utf-8",
        )  # fmt: skip

    return run


@pytest.mark.parametrize("launcher", ["local", "slurm"])
def test_trials_run_from_an_installed_package(installed, slurm, tiny_overrides, tmp_path, launcher):
    options = ["hydra.launcher.wait=true", "hydra.launcher.poll_seconds=1",
               "hydra.launcher.cpus_per_task=1", "hydra.launcher.time_minutes=10"]  # fmt: skip
    done = installed(
        *tiny_overrides, f"hydra/launcher={launcher}", f"output_dir={tmp_path}/outputs",
        *(options if launcher == "slurm" else ["hydra.launcher.n_jobs=2"]), "seed=0,1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folders = sorted(path.parent for path in tmp_path.glob("outputs/*/*/summary.json"))
    assert len(folders) == 2
    for folder in folders:
        summary = read_summary(folder) or {}
        assert summary["status"] == "finished"
        assert summary["git"] == {"commit": None, "dirty": None}
        assert summary["command"].startswith("mobilellm train -m ")
        if launcher == "slurm":
            record = read_record(folder)
            assert record is not None and record.commit is None
            code = Path(record.code)
            assert (code / "mobilellm" / "conf" / "train.yaml").is_file()
            assert not (code / "scripts").exists()
    if launcher == "slurm":
        assert "the jobs run from a copy of the package in " in done.stderr
        assert "no commit is recorded" in done.stderr
