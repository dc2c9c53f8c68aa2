"""A copy of the code at the moment of submission: jobs start later, and run from it."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mobilellm.provenance import CODE_ROOT, SNAPSHOT, git_state

# Of what git does not know yet, this is code; a corpus beside it is not.
CODE_SUFFIXES = {".py", ".yaml", ".yml", ".toml"}
CODE_FOLDERS = ("mobilellm", "conf", "scripts")


@dataclass(frozen=True)
class Snapshot:
    """A copy of the code."""

    path: Path
    """Holds `mobilellm/`, snapshot.json and, where the code had changes, changes.diff."""
    commit: str | None
    dirty: bool | None


def take_snapshot(parent: Path) -> Snapshot:
    """Copy the code that runs now to `<parent>/code-<hash of its content>`.

    The working tree is copied: the commit with its changes, and new files of code. A copy that is
    there already is used again.
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
            (temporary / "changes.diff").write_bytes(
                _git(CODE_ROOT, "diff", "--binary", "HEAD") or b""
            )
        temporary.chmod(0o755)
        try:
            os.rename(temporary, target)
        except OSError:
            # Another submission was faster.
            shutil.rmtree(temporary)
    return Snapshot(target, state["commit"], state["dirty"])


def _code_files(root: Path) -> list[str]:
    """Names below `root`, sorted."""
    known = _git(root, "ls-files", "-z", "--cached")
    new = _git(root, "ls-files", "-z", "--others", "--exclude-standard")
    if known is None or new is None:
        files = [path for name in CODE_FOLDERS for path in (root / name).rglob("*")]
        names = [str(p.relative_to(root)) for p in files if p.suffix in CODE_SUFFIXES]
    else:
        names = known.decode().split("\0")
        names += [n for n in new.decode().split("\0") if Path(n).suffix in CODE_SUFFIXES]
    return sorted({name for name in names if name and (root / name).is_file()})


def _hash(contents: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def _git(root: Path, *arguments: str) -> bytes | None:
    """What git prints, None where `root` is no clone."""
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, check=False
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
