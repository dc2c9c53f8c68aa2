"""The files of a study, from which any controller continues it.

The trials are ordinary run folders, next to the folder `search` that holds

- `study.json`: space, objectives, constraints, pruning and the settings that all trials share;
- `trials/00012.json`: the point, the overrides and the run folder of one trial, written before it
  starts and never changed;
- `claims/00012.lock`: locked by the controller that runs the trial, as long as it lives;
- `kills/00012.json`: how often the process of the trial was killed.

Results are those in the run folders.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mobilellm.files import write_text_atomically
from mobilellm.run_folder import read_summary
from mobilellm.strict_json import to_json

FORMAT = 1
FOLDER = "search"
FINISHED, PRUNED, FAILED = "finished", "pruned", "failed"
ENDED = (FINISHED, PRUNED, FAILED)


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial of a study, as it was proposed."""

    number: int
    point: Mapping[str, Any]
    """The searched values, by entry."""
    settings: Mapping[str, Any]
    """Values of all settings of the space, those that follow from the constraints included."""
    overrides: tuple[str, ...]
    """The overrides in which its run differs from the others."""
    run: str
    """Name of its run folder, next to the folder of the study's files."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """Costs of its shape, by name."""
    origin: str = ""
    """What proposed it: the name of the sampler, or `random` if the sampler found no new point."""
    sampler_state: Mapping[str, Any] = field(default_factory=dict)
    """What the sampler stores with the trial."""


@dataclass(frozen=True)
class StudyFiles:
    """The files of one study."""

    root: Path
    """The folder of the runs."""

    @property
    def folder(self) -> Path:
        """The folder of the files."""
        return self.root / FOLDER

    @property
    def study_path(self) -> Path:
        """The description of the study."""
        return self.folder / "study.json"

    def read_study(self) -> dict[str, Any] | None:
        """The description; None if the study is new.

        Raises:
            ValueError: the file is not the description of a study of this version.
        """
        if not self.study_path.exists():
            return None
        try:
            content = json.loads(self.study_path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.study_path} is not JSON ({error})") from error
        if content.get("format") != FORMAT:
            raise ValueError(
                f"{self.study_path} has format {content.get('format')}, and {FORMAT} is required; "
                "give another experiment_name"
            )
        return content

    def write_study(self, content: Mapping[str, Any]) -> None:
        """Write the description."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text_atomically(self.study_path, to_json({"format": FORMAT, **content}) + "\n")

    def records(self) -> list[TrialRecord]:
        """All trials, in the order of their numbers."""
        paths = sorted((self.folder / "trials").glob("*.json"))
        return [_record(json.loads(path.read_text(encoding="utf-8"))) for path in paths]

    def write_record(self, record: TrialRecord) -> None:
        """Write the record of a new trial.

        Raises:
            FileExistsError: there is a trial of this number.
        """
        path = self._path("trials", record.number, "json")
        if path.exists():
            raise FileExistsError(f"{path} exists, and is never overwritten")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, to_json(asdict(record)) + "\n")

    def run_folder(self, record: TrialRecord) -> Path:
        """The run folder of a trial."""
        return self.root / record.run

    def summary(self, record: TrialRecord) -> dict[str, Any]:
        """The summary.json of a trial; empty if it has not started."""
        try:
            return read_summary(self.run_folder(record)) or {}
        except ValueError:
            return {}

    def kills(self, record: TrialRecord) -> int:
        """How often the process of the trial was killed."""
        path = self._path("kills", record.number, "json")
        return int(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else 0

    def add_kill(self, record: TrialRecord) -> int:
        """Count that the process of the trial was killed; returns the new number."""
        number = self.kills(record) + 1
        path = self._path("kills", record.number, "json")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, f"{number}\n")
        return number

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the study against other controllers for a short time; waits for them."""
        from filelock import FileLock  # takes 0.1 s to import

        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "study.lock"):
            yield

    def claim(self, record: TrialRecord) -> "Claim | None":
        """Claim a trial for this process; None if another living process has claimed it."""
        from filelock import FileLock, Timeout  # takes 0.1 s to import

        path = self._path("claims", record.number, "lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return Claim(FileLock(path).acquire(timeout=0).lock)
        except Timeout:
            return None

    def _path(self, kind: str, number: int, suffix: str) -> Path:
        return self.folder / kind / f"{number:05d}.{suffix}"


@dataclass(frozen=True)
class Claim:
    """The right to run a trial, which ends with the process that holds it."""

    lock: Any

    def release(self) -> None:
        """Give the right back."""
        self.lock.release()


def _record(content: Mapping[str, Any]) -> TrialRecord:
    return TrialRecord(**{**content, "overrides": tuple(content["overrides"])})
