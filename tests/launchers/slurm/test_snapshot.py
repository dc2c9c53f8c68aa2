"""The copy of the code that jobs run from."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mobilellm.launchers.slurm.snapshot import take_snapshot

ROOT = Path(__file__).parents[3]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A small clone with a change, a new file of code and an untracked corpus."""
    folder = tmp_path / "clone"
    files = {
        "mobilellm/__init__.py": "",
        "mobilellm/version.py": '__version__ = "0"\n',
        "mobilellm/provenance.py": (ROOT / "mobilellm/provenance.py").read_text(encoding="utf-8"),
        "mobilellm/launchers/__init__.py": "",
        "mobilellm/launchers/slurm/snapshot.py": (
            ROOT / "mobilellm/launchers/slurm/snapshot.py"
        ).read_text(encoding="utf-8"),
        "conf/train.yaml": "seed: 0\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "all"]):
        subprocess.run(["git", "-C", folder, *command], check=True)
    (folder / "conf/train.yaml").write_text("seed: 1\n", encoding="utf-8")
    (folder / "conf/new.yaml").write_text("new: 1\n", encoding="utf-8")
    (folder / "corpus.txt").write_text("much text\n", encoding="utf-8")
    return folder


def run(package: Path, *arguments: str) -> str:
    """The path of the snapshot that the package in this folder takes, or the state of its code."""
    code = (
        "import sys; from pathlib import Path; "
        "from mobilellm.launchers.slurm.snapshot import take_snapshot; "
        "from mobilellm.provenance import git_state; "
        "s = take_snapshot(Path(sys.argv[1])) if len(sys.argv) > 1 else None; "
        "print(s.path if s else git_state())"
    )
    environment = os.environ | {"PYTHONPATH": str(package), "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        cwd=package.parent,
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    ).stdout.strip()


def test_the_copy_is_the_commit_with_its_changes(clone: Path, tmp_path: Path):
    copy = Path(run(clone, str(tmp_path / "copies")))
    assert (copy / "conf/train.yaml").read_text(encoding="utf-8") == "seed: 1\n"
    assert (copy / "conf/new.yaml").exists()
    assert not (copy / "corpus.txt").exists()
    assert "+seed: 1" in (copy / "changes.diff").read_text(encoding="utf-8")
    state = json.loads((copy / "snapshot.json").read_text(encoding="utf-8"))
    head = subprocess.check_output(
        ["git", "-C", clone, "rev-parse", "HEAD"], text=True, encoding="utf-8"
    ).strip()
    assert state == {"commit": head, "dirty": True}
    assert Path(run(clone, str(tmp_path / "copies"))) == copy, "the same code was copied twice"
    # Code that runs from the copy reports the commit of the clone.
    assert run(copy) == str(state)
    (clone / "conf/train.yaml").write_text("seed: 2\n", encoding="utf-8")
    assert Path(run(clone, str(tmp_path / "copies"))) != copy
    assert (copy / "conf/train.yaml").read_text(encoding="utf-8") == "seed: 1\n"


def test_this_clone_is_copied_whole(tmp_path: Path):
    copy = take_snapshot(tmp_path)
    for name in ("mobilellm/launchers/slurm/launcher.py", "conf/train.yaml", "scripts/train.py"):
        assert (copy.path / name).read_bytes() == (ROOT / name).read_bytes()


def test_an_installed_package_is_copied_without_its_neighbours(clone: Path, tmp_path: Path):
    """As `mobilellm train` from a wheel: conf/ is inside the package, and there is no clone."""
    site = tmp_path / "repository" / "site-packages"
    site.mkdir(parents=True)
    subprocess.run(["git", "-C", site.parent, "init", "-q"], check=True)
    (clone / "mobilellm").rename(site / "mobilellm")
    (clone / "conf").rename(site / "mobilellm" / "conf")
    (site / "mobilellm" / "data.json").write_text("[]", encoding="utf-8")
    for other in ("conf", "scripts", "torch"):
        (site / other).mkdir()
        (site / other / "train.py").write_text("", encoding="utf-8")
    copy = Path(run(site, str(tmp_path / "copies")))
    copied = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    assert {"mobilellm/conf/train.yaml", "mobilellm/data.json", "snapshot.json"} <= copied
    assert all(name.startswith("mobilellm/") for name in copied - {"snapshot.json"})
    assert not any("__pycache__" in name for name in copied)
    # A repository around the environment is not the repository of the code.
    assert run(copy) == str({"commit": None, "dirty": None})
