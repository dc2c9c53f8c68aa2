"""A copy of the code at the moment of submission: jobs start later, and run from the copy."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mobilellm.provenance import CODE_ROOT, SNAPSHOT, git_state

# Untracked files with these suffixes are code; a corpus in the clone is not.
CODE_SUFFIXES = {".py", ".yaml", ".yml", ".toml"}
CLONE_FOLDERS = ("mobilellm", "conf", "scripts")


@dataclass(frozen=True)
class Snapshot:
    """A copy of the code."""

    path: Path
    """Holds `mobilellm/`, snapshot.json and, if the code had changes, changes.diff."""
    commit: str | None
    dirty: bool | None


def take_snapshot(parent: Path) -> Snapshot:
    """Copy the code that is running to `<parent>/code-<hash of its content>`.

    From a clone, the working tree is copied, with uncommitted changes and new files of code. From
    an installed package, the files of the package are copied, and there is no commit. An existing
    copy is reused.
    """
    contents = {name: (CODE_ROOT / name).read_bytes() for name in _code_files(CODE_ROOT)}
    state = git_state()
    target = parent / f"code-{_hash(contents)}"
    if not target.exists():
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix="code-", suffix=".tmp", dir=parent))
        for name, content in contents.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(content)
        (temporary / SNAPSHOT).write_text(
            json.dumps(state, allow_nan=False) + "\n", encoding="utf-8"
        )
        if state["dirty"]:
            changes = _git(CODE_ROOT, "diff", "--binary", "HEAD") or b""
            (temporary / "changes.diff").write_bytes(changes)
        temporary.chmod(0o755)
        try:
            os.rename(temporary, target)
        except OSError:
            # Another process made the same copy in the meantime.
            shutil.rmtree(temporary)
    return Snapshot(target, state["commit"], state["dirty"])


def _code_files(root: Path) -> list[str]:
    """Paths of the code files relative to `root`, sorted."""
    known = _git(root, "ls-files", "-z", "--cached")
    new = _git(root, "ls-files", "-z", "--others", "--exclude-standard")
    if known is not None and new is not None:
        names = known.decode().split("\0")
        names += [n for n in new.decode().split("\0") if Path(n).suffix in CODE_SUFFIXES]
    else:
        # The configuration of an installed package is inside it; what lies beside it is not ours.
        is_installed = (root / "mobilellm" / "conf").is_dir()
        folders = CLONE_FOLDERS[:1] if is_installed else CLONE_FOLDERS
        files = [path for name in folders for path in (root / name).rglob("*")]
        names = [str(p.relative_to(root)) for p in files if "__pycache__" not in p.parts]
    return sorted({name for name in names if name and (root / name).is_file()})


def _hash(contents: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def _git(root: Path, *arguments: str) -> bytes | None:
    """The output of git; None if `root` is not a clone."""
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, check=False
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
