"""A real SLURM for these tests, and the small application of tests/small_hydra_app.py on it."""

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from local_slurm import local_slurm, what_is_missing
from slurm_jobs import queue, wait_until
from small_hydra_app import app as small_app

__all__ = ["small_app"]

ROOT = Path(__file__).parents[2]

APP_LAUNCHER = """
    defaults: [slurm_defaults]
    nodes: 1
    cpus_per_task: 1
    time_minutes: 10
    poll_seconds: 0.5
    """


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """SLURM's tools work while this is in use; skipped if it cannot run here."""
    if reason := what_is_missing():
        pytest.skip(reason)
    # A short path: munge's socket may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    before = dict(os.environ)
    try:
        with local_slurm(folder) as environment:
            os.environ.update(environment)
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm_app(slurm, small_app):
    """The application, whose `hydra/launcher=slurm` is the project's with fewer resources."""
    launchers = small_app.conf / "hydra/launcher"
    shutil.copyfile(ROOT / "conf/hydra/launcher/slurm.yaml", launchers / "slurm_defaults.yaml")
    (launchers / "slurm.yaml").write_text(textwrap.dedent(APP_LAUNCHER), encoding="utf-8")
    yield small_app
    for job in {job.partition("_")[0] for job in queue()}:
        subprocess.run(["scancel", job], check=False)
    wait_until(lambda: not queue(), 30)
