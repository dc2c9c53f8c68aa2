"""job.json in a run folder: the job that runs it, the code it runs from, and its log."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobilellm.files import write_text_atomically

JOB = "job.json"
JOB_CONFIG = "job.yaml"


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """The job that a run was submitted as."""

    job_id: str
    """In the form of SLURM's tools, e.g. `12_3` for a task of an array."""
    log: str
    """The first rank's stdout and stderr."""
    code: str
    """The folder that the job imports this package from; see `snapshot.take_snapshot`."""
    commit: str | None
    """Git commit of the code; None without git."""
    dirty: bool | None
    """Whether the code differed from the commit; the changes are in `<code>/changes.diff`."""
    command: str
    submitted_at: str
    error: str | None = None
    """Why the job failed, if the job itself could record it."""


def write_record(folder: Path, record: JobRecord) -> None:
    """Write job.json atomically."""
    write_text_atomically(
        folder / JOB, json.dumps(asdict(record), indent=2, allow_nan=False) + "\n"
    )


def read_record(folder: Path) -> JobRecord | None:
    """The content of job.json, or None if the run was never submitted.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / JOB
    try:
        fields: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return JobRecord(**fields)
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); make sure that no job is running it, and remove the file"
        ) from error
