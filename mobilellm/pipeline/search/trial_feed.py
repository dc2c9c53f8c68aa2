"""Chooses the next trial of a study: one that a controller left behind, or a new one."""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from mobilellm.hydra_app.trial import Trial
from mobilellm.launchers.local.jobs import Job, Outcome
from mobilellm.launchers.monitor.overview import Counts
from mobilellm.pipeline.search.trial_configs import TrialConfigs, override_texts
from mobilellm.run_folder import write_summary
from mobilellm.run_lock import RunIsBusy, lock_run_folder
from mobilellm.search.space.feasibility import settings_key
from mobilellm.search.study.records import ENDED, FAILED, Claim, TrialRecord
from mobilellm.search.study.study import Study

logger = logging.getLogger(__name__)

UNTRAINABLE = 25
"""Points in a row whose runs cannot be planned, after which the search ends with the error."""
BUSY_SECONDS = 10.0
"""How long a run that another process trains is left alone before it is asked for again."""


@dataclass
class TrialFeed:
    """The trials that this controller runs; see `launchers.job_feed.JobFeed`."""

    study: Study
    configs: TrialConfigs
    counts: Counts = field(default_factory=lambda: Counts(0))
    _claims: dict[str, tuple[TrialRecord, Claim]] = field(default_factory=dict)
    _busy_until: dict[int, float] = field(default_factory=dict)
    _is_exhausted: bool = False

    def __post_init__(self) -> None:
        """Count the trials that have ended."""
        self.counts.total = self.study.settings.n_trials
        self._count()

    def next_job(self) -> Job | None:
        """A trial that was left behind, or a new one; it is claimed for this process."""
        with self.study.files.locked():
            records = self.study.files.records()
            left = self._left_behind(records)
            if left is not None:
                return left
            if len(records) >= self.study.settings.n_trials or self._is_exhausted:
                return None
            return self._new(records)

    def _left_behind(self, records: list[TrialRecord]) -> Job | None:
        """A trial without an end that no living controller runs."""
        mine = {record.number for record, _ in self._claims.values()}
        for record in records:
            is_free = self._busy_until.get(record.number, 0.0) <= time.monotonic()
            if record.number in mine or not is_free or self.study.trial(record).status in ENDED:
                continue
            claim = self.study.files.claim(record)
            if claim is None:
                continue
            try:
                # The process of a killed controller's trial may need a moment to end.
                with lock_run_folder(self.study.files.run_folder(record)):
                    pass
            except RunIsBusy:
                claim.release()
                self._busy_until[record.number] = time.monotonic() + BUSY_SECONDS
                continue
            trial = self.configs.compose(record.number, record.overrides)
            return self._job(record, claim, trial)
        return None

    def _new(self, records: list[TrialRecord]) -> Job | None:
        """A new trial; None if no feasible point is left.

        Raises:
            ValueError, TypeError, FileNotFoundError: no run can be planned.
        """
        for attempt in range(UNTRAINABLE):
            proposal = self.study.propose(records)
            if proposal is None:
                self._is_exhausted = True
                logger.warning(
                    "no further feasible point was found: the search ends with %d of %d trials",
                    len(records), self.study.settings.n_trials,
                )  # fmt: skip
                self.counts.total = len(records)
                return None
            candidate = proposal.candidate
            overrides = override_texts(candidate.settings)
            try:
                trial = self.configs.compose(len(records), overrides)
                name = Path(trial.folder or "").name
                if any(record.run == name for record in records):
                    raise ValueError(f"its run would be {name}, which is another trial's")
            except (ValueError, TypeError) as error:
                if attempt + 1 == UNTRAINABLE:
                    raise
                logger.warning("not tried: %s: %s", " ".join(overrides), error)
                self.study.untrainable.add(settings_key(candidate.settings))
                continue
            constraints = self.study.feasibility.constraints
            record = TrialRecord(
                number=len(records),
                point=candidate.point,
                settings=dict(candidate.settings),
                overrides=overrides,
                run=name,
                costs=constraints.costs(candidate.model),
                origin=proposal.origin,
                sampler_state=dict(proposal.sampler_state),
            )
            self.study.files.write_record(record)
            claim = self.study.files.claim(record)
            return None if claim is None else self._job(record, claim, trial)
        return None

    def _job(self, record: TrialRecord, claim: Claim, trial: Trial) -> Job:
        log = self.study.files.root / "logs" / f"{record.number:05d}_{record.run[:140]}.log"
        name = f"{record.number}: {trial.name}"
        self._claims[name] = (record, claim)
        return Job(name, trial.config, trial.folder, log.absolute(), trial.swept)

    def is_done(self) -> bool:
        """Whether all trials of the study have ended, those of other controllers included."""
        records = self.study.files.records()
        if len(records) < self.study.settings.n_trials and not self._is_exhausted:
            return False
        return all(self.study.trial(record).status in ENDED for record in records)

    def ended(self, outcome: Outcome) -> str | None:
        """Give the trial back, and record a failure that it could not record itself.

        Raises:
            ValueError: no trial reports an objective, or the first trials all failed.
        """
        record, claim = self._claims.pop(outcome.job.name)
        line = self._recorded(record, outcome)
        claim.release()
        self._count()
        self.study.check_first_failures()
        return f"[{self.counts.done}/{self.counts.total}] {line}"

    def _recorded(self, record: TrialRecord, outcome: Outcome) -> str:
        name, attempts = outcome.job.name, self.study.settings.attempts
        if outcome.is_killed:
            kills = self.study.files.add_kill(record)
            if kills < attempts:
                return f"{outcome.error}: {name} is started again ({kills + 1} of {attempts})"
        summary = self.study.files.summary(record)
        if outcome.status == FAILED and summary.get("status") not in ENDED:
            folder = self.study.files.run_folder(record)
            folder.mkdir(parents=True, exist_ok=True)
            write_summary(folder, {**summary, "status": FAILED, "error": outcome.error})
        trial = self.study.trial(record)
        if trial.values is None:
            return f"{trial.status} {name}" + (f": {outcome.error}" if outcome.error else "")
        values = zip(self.study.settings.parsed_objectives, trial.values, strict=True)
        return f"{trial.status} {name}: " + ", ".join(f"{o.name} {v:.5g}" for o, v in values)

    def _count(self) -> None:
        """Update the numbers of ended trials and the best result."""
        trials = self.study.trials()
        for status in ENDED:
            setattr(self.counts, status, sum(one.status == status for one in trials))
        objective, *others = self.study.settings.parsed_objectives
        finished = [one for one in trials if one.status == "finished" and one.values]
        if finished:
            best = min(finished, key=lambda one: objective.lower_is_better((one.values or (0,))[0]))
            among = " of the first objective" if others else ""
            self.counts.note = f"best {(best.values or (0,))[0]:.4g}{among} (trial {best.number})"
