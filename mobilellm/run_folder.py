"""The folder of one run: names of its files, its summary, and whether a run may start in it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobilellm.checkpoint_files import last_checkpoint
from mobilellm.files import write_text_atomically
from mobilellm.strict_json import to_json

SUMMARY = "summary.json"
CONFIG = "config.yaml"
METRICS = "metrics.csv"
MODEL = "model"


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
    summary = read_summary(folder)
    if summary is not None and summary.get("status") == "finished":
        raise ValueError(
            f"{folder} is a finished run and is never overwritten; continue it with a larger "
            f"budget (extend_from={folder} max_tokens=…), change a setting (seed=…), give another "
            "output_dir=…, or remove the folder"
        )
    if last_checkpoint(folder) is not None and not resume:
        raise ValueError(
            f"{folder} is an unfinished run; continue it with resume=true, or remove the folder"
        )
