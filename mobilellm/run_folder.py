"""The folder of one run: names of its files, its summary, and whether a run may start in it."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mobilellm.checkpoint_files import last_checkpoint
from mobilellm.files import write_text_atomically
from mobilellm.provenance import SNAPSHOT
from mobilellm.strict_json import to_json

SUMMARY = "summary.json"
CONFIG = "config.yaml"
METRICS = "metrics.csv"
MODEL = "model"


def folders_with(*names: str, below: Path) -> Iterator[Path]:
    """Folders at or below a folder that contain a file of one of these names, in order of name.

    Hidden folders are not searched, nor are the copies of the code that jobs on a cluster run from:
    they contain the runs that are committed to the clone.
    """
    for parent, folders, files in os.walk(below):
        folder = Path(parent)
        if SNAPSHOT in files and folder != below:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if not set(names).isdisjoint(files):
            yield folder


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Read the summary.json of a run; None if the run has not started.

    Raises:
        ValueError: the file is not JSON.
    """
    path = folder / SUMMARY
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); remove the file to run again") from error


def is_finished(folder: Path) -> bool:
    """Whether the folder holds a finished run.

    Raises:
        ValueError: summary.json is not JSON.
    """
    return (read_summary(folder) or {}).get("status") == "finished"


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.json atomically."""
    write_text_atomically(folder / SUMMARY, to_json(summary, default=str) + "\n")


def check_may_start(folder: Path, *, resume: bool) -> None:
    """Check that training in `folder` would not overwrite another run.

    Args:
        folder: of the run; it need not exist.
        resume: whether an unfinished run is to be continued.

    Raises:
        ValueError: the folder contains a finished run, or an unfinished one and `resume` is false.
    """
    if is_finished(folder):
        raise ValueError(
            f"{folder} is a finished run and is never overwritten; continue it with a larger "
            f"budget (extend_from={folder} max_tokens=…), change a setting (seed=…), give another "
            "output_dir=…, or remove the folder"
        )
    if last_checkpoint(folder) is not None and not resume:
        raise ValueError(
            f"{folder} is an unfinished run; continue it with resume=true, or remove the folder"
        )
