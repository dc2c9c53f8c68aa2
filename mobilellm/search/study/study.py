"""A study, as its files describe it: which trials have ended, with what, and what comes next."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mobilellm.search.space import Feasibility
from mobilellm.search.space.feasibility import settings_key
from mobilellm.search.study.curves import read_losses
from mobilellm.search.study.proposals import Key, Proposal, Proposer
from mobilellm.search.study.records import ENDED, FAILED, PRUNED, StudyFiles, TrialRecord
from mobilellm.search.study.settings import StudySettings
from mobilellm.search.study.storage import Storage, StudyTrial

FIRST_FAILURES = 3
"""If the first trials all fail, and not because training diverged, the search ends."""


@dataclass
class Study:
    """The trials of a study; all of its state is in files.

    Args:
        files: of the study.
        settings: of the study.
        feasibility: checks points.
        storage: Optuna's storage.
    """

    files: StudyFiles
    settings: StudySettings
    feasibility: Feasibility
    storage: Storage
    untrainable: set[Key] = field(default_factory=set)
    """Keys of points whose runs could not be planned."""
    _ended: dict[int, StudyTrial] = field(default_factory=dict)

    def open(self, description: Mapping[str, Any]) -> None:
        """Create the study, or check that it is the one that was started in this folder.

        Args:
            description: what must not change; `pruning` may.

        Raises:
            ValueError: it was started with other settings; the message names the differences.
        """
        with self.files.locked():
            known = self.files.read_study()
            if known is not None:
                check_same_study(known, description, str(self.files.root))
            self.files.write_study(description)

    def trials(self) -> list[StudyTrial]:
        """All trials, in the order of their numbers."""
        return [self.trial(record) for record in self.files.records()]

    def trial(self, record: TrialRecord) -> StudyTrial:
        """One trial, from the files of its run.

        Raises:
            ValueError: a finished run has no value of an objective.
        """
        known = self._ended.get(record.number)
        if known is not None:
            return known
        summary = self.files.summary(record)
        status = str(summary.get("status") or "waiting")
        found = StudyTrial(
            number=record.number,
            status=status,
            point=record.point,
            domains=self.feasibility.space.domains(record.point),
            values=self._values(record, summary, status),
            losses=self._losses(record) if status in ENDED else {},
            attributes={"run": record.run, **record.costs},
            sampler_state=record.sampler_state,
        )
        if status in ENDED:
            self._ended[record.number] = found
        return found

    def _values(
        self, record: TrialRecord, summary: Mapping[str, Any], status: str
    ) -> tuple[float, ...] | None:
        if status not in ENDED or status == FAILED:
            return None
        values = []
        for objective in self.settings.parsed_objectives:
            value = objective.value(record.costs, summary)
            if value is None and status == PRUNED:
                return None
            if value is None:
                numbers = [name for name, one in summary.items() if isinstance(one, int | float)]
                raise ValueError(
                    f"search.objectives has {objective.name}, which no trial reports: "
                    f"{self.files.run_folder(record)}/summary.json has {', '.join(sorted(numbers))}"
                )
            values.append(value)
        return tuple(values)

    def _losses(self, record: TrialRecord) -> dict[int, float]:
        metric = self.settings.loss
        return dict(read_losses(self.files.run_folder(record), metric)) if metric else {}

    def propose(self, records: list[TrialRecord]) -> Proposal | None:
        """The point of the next trial; None if there is none. Call it with the study locked."""
        trials = [self.trial(record) for record in records]
        self.storage.add(trials)
        tried = {settings_key(record.settings) for record in records} | self.untrainable
        proposer = Proposer(self.feasibility, self.settings)
        return proposer.propose(len(records), trials, tried)

    def store(self) -> None:
        """Add all trials that have ended to Optuna's storage."""
        with self.files.locked():
            self.storage.add(self.trials())

    def check_first_failures(self) -> None:
        """End a search whose trials cannot run.

        Raises:
            ValueError: the first trials all failed, and not because training diverged.
        """
        records = self.files.records()[:FIRST_FAILURES]
        summaries = [self.files.summary(record) for record in records]
        failed = [one for one in summaries if one.get("status") == FAILED]
        if len(failed) == FIRST_FAILURES and not any(one.get("diverged") for one in failed):
            raise ValueError(
                f"the first {FIRST_FAILURES} trials failed: {failed[-1].get('error')}; correct it, "
                f"and remove {self.files.root} or give another experiment_name"
            )


def check_same_study(known: Mapping[str, Any], given: Mapping[str, Any], folder: str) -> None:
    """Check that a study is opened with the settings with which it was started.

    Raises:
        ValueError: it is not; the message names the differences.
    """
    found = []
    for part in ("space", "objectives", "constraints", "run"):
        then, now = known.get(part), given.get(part)
        if then == now:
            continue
        if isinstance(then, Mapping) and isinstance(now, Mapping):
            names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
            found += [f"{part} {name}: {then.get(name)} and now {now.get(name)}" for name in names]
        else:
            found.append(f"{part}: {then} and now {now}")
    if found:
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        raise ValueError(
            f"{folder} is a search that was started with other settings: {'; '.join(found[:3])}"
            f"{more}; use the same ones, or give another experiment_name"
        )
