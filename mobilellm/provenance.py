"""Provenance of a result: command, code, versions and machine."""

import importlib.metadata
import json
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from mobilellm.version import __version__

CODE_ROOT = Path(__file__).resolve().parents[1]
"""The folder that contains the package: the clone, or a copy of it."""
SNAPSHOT = "snapshot.json"
"""In the folder of a copy: the git state of the clone at the time of copying."""
PACKAGES = ("torch", "lightning", "hydra-core", "datasets", "sentencepiece", "numpy")


def provenance() -> dict[str, Any]:
    """Return command line, git commit and versions, as plain data for summary.json."""
    return {"command": command_line(), "git": git_state(), "versions": versions()}


def command_line() -> str:
    """Return the command as the user can type it again, e.g. `mobilellm train …`."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        program = Path("mobilellm")
    start = f"python {_quoted(sys.argv[0])}" if program.suffix == ".py" else program.name
    return " ".join([start, *map(_quoted, sys.argv[1:])])


@cache
def git_state() -> dict[str, Any]:
    """Return the commit of the clone from which the package runs, and whether it has changes.

    Both values are None without git. For a copy that was made for jobs on a cluster, they describe
    the clone at the time of copying.
    """
    if (CODE_ROOT / SNAPSHOT).exists():
        return json.loads((CODE_ROOT / SNAPSHOT).read_text(encoding="utf-8"))
    commit = _git(CODE_ROOT, "rev-parse", "HEAD")
    changes = _git(CODE_ROOT, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of its numerical libraries."""
    found = {"python": platform.python_version(), "mobilellm": __version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device_name(accelerator: str) -> str:
    """Return the name of the processor, or of the GPU if `accelerator` is `cuda`."""
    if accelerator == "cuda":
        import torch

        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _git(root: Path, *arguments: str) -> str | None:
    """The output of git; None if `root` is not a clone, even if a folder above it is one."""
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=False,
            encoding="utf-8",
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _quoted(argument: str) -> str:
    return f"'{argument}'" if any(c in argument for c in ' ()[]{}*$;&|<>"') else argument
