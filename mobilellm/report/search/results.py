"""What a study has found, from its trials."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellm.search.latency_check import LatencyCheck
from mobilellm.search.study.objectives import Objective, front
from mobilellm.search.study.records import FINISHED, PRUNED, StudyFiles, TrialRecord
from mobilellm.search.study.storage import StudyTrial, create_study, quiet_optuna
from mobilellm.search.study.study import Study

IMPORTANCE_TRIALS = 10
"""Finished trials without which the importance of the settings is not estimated."""


@dataclass(frozen=True)
class TrialResult:
    """One trial and its results."""

    record: TrialRecord
    trial: StudyTrial
    tokens: int
    """Tokens that it was trained on."""
    steps: tuple[tuple[int, float], ...]
    """Tokens and loss of each validation."""

    @property
    def label(self) -> str:
        """`num_blocks=4 hidden_size=64`."""
        return " ".join(f"{name.rpartition('.')[2]}={value}"
                        for name, value in self.record.settings.items())  # fmt: skip


@dataclass(frozen=True)
class FinalResult:
    """A finalist: its loss in the search and after longer training."""

    number: int
    short: float
    losses: Mapping[int, float]
    """Final loss by seed."""

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.losses.values())


@dataclass(frozen=True)
class SearchResults:
    """The results of a study."""

    name: str
    sampler: str
    objectives: tuple[Objective, ...]
    trials: tuple[TrialResult, ...]
    budget: float | None
    """Tokens of a trial that is not pruned; None if trials differ."""
    importance: Mapping[str, float]
    """Share of each setting in what decides whether a trial is among the best; empty if there are
    too few trials."""
    finalists: tuple[FinalResult, ...] = ()
    latency_check: LatencyCheck | None = None
    """Measured latencies of the best trials; None if the search knows no latency."""
    others: tuple[tuple[str, tuple[tuple[int, float], ...]], ...] = ()
    """Names of other studies, with their best value by tokens spent."""

    @property
    def finished(self) -> tuple[TrialResult, ...]:
        """The trials that used their whole budget."""
        return tuple(one for one in self.trials if one.trial.status == FINISHED)

    def scores(self, one: TrialResult) -> tuple[float, ...]:
        """The values of a trial, lower is better."""
        pairs = zip(self.objectives, one.trial.values or (), strict=True)
        return tuple(objective.lower_is_better(value) for objective, value in pairs)

    @property
    def ranked(self) -> tuple[TrialResult, ...]:
        """The finished trials, the best first objective first."""
        return tuple(sorted(self.finished, key=self.scores))

    @property
    def front(self) -> tuple[TrialResult, ...]:
        """The finished trials that no other dominates, the cheapest first."""
        by_number = {one.record.number: one for one in self.finished}
        kept = front({number: self.scores(one) for number, one in by_number.items()})
        return tuple(by_number[number] for number in kept)

    @property
    def largest_body(self) -> TrialResult | None:
        """The finished trial with the most parameters in its body."""
        return max(self.finished, key=lambda one: one.record.costs["body"], default=None)

    @property
    def tokens_used(self) -> int:
        """Tokens of all trials."""
        return sum(one.tokens for one in self.trials)

    @property
    def share_saved(self) -> float | None:
        """Share of the tokens that pruning saved; None if no trial was pruned."""
        pruned = [one for one in self.trials if one.trial.status == PRUNED]
        if not pruned or self.budget is None:
            return None
        saved = sum(self.budget - one.tokens for one in pruned)
        return saved / (saved + self.tokens_used)

    @property
    def rank_correlation(self) -> float | None:
        """Kendall's tau between the losses of the finalists in the search and after training."""
        if len(self.finalists) < 3:
            return None
        from scipy.stats import kendalltau  # takes a second to import

        short = [one.short for one in self.finalists]
        found: Any = kendalltau(short, [one.mean for one in self.finalists])
        return float(found.statistic)


def read_results(
    study: Study,
    name: str,
    *,
    budget: float | None,
    finalists: Sequence[FinalResult] = (),
    others: Sequence[Path] = (),
) -> SearchResults:
    """Collect the results of a study.

    Args:
        study: the study.
        name: of the experiment.
        budget: tokens of a trial that is not pruned.
        finalists: trained again.
        others: folders of other studies with the same objectives.
    """
    settings = study.settings
    first = settings.parsed_objectives[0]
    trials = tuple(_result(study.files, record, study.trial(record))
                   for record in study.files.records())  # fmt: skip
    return SearchResults(
        name=name,
        sampler=settings.sampler,
        objectives=settings.parsed_objectives,
        trials=trials,
        budget=budget,
        importance=importance(study),
        finalists=tuple(finalists),
        others=tuple(
            (folder.name, best_by_tokens(_other(study, folder), first)) for folder in others
        ),
    )


def _other(study: Study, folder: Path) -> list[TrialResult]:
    """The trials of another study with the same objectives."""
    other = Study(StudyFiles(folder), study.settings, study.feasibility, study.storage)
    return [_result(other.files, r, other.trial(r)) for r in other.files.records()]


def _result(files: StudyFiles, record: TrialRecord, trial: StudyTrial) -> TrialResult:
    tokens = files.summary(record).get("tokens") or max(trial.losses, default=0)
    return TrialResult(record, trial, int(tokens), tuple(sorted(trial.losses.items())))


def best_by_tokens(
    trials: Sequence[TrialResult], first: Objective
) -> tuple[tuple[int, float], ...]:
    """The best first objective so far, after each trial, by the tokens that all have used."""
    spent, found, points = 0, [], []
    for one in trials:
        spent += one.tokens
        if one.trial.status == FINISHED and one.trial.values:
            found.append(one.trial.values[0])
        if found:
            points.append((spent, min(found, key=first.lower_is_better)))
    return tuple(points)


def importance(study: Study) -> dict[str, float]:
    """Shares of the settings in what tells the best trials from the others, by PED-ANOVA.

    Settings that only some trials have are left out.

    Source: Watanabe et al. 2023, arXiv:2304.10255.
    """
    trials = [one for one in study.trials() if one.status == FINISHED]
    if len(trials) < IMPORTANCE_TRIALS:
        return {}
    with quiet_optuna():
        import optuna  # an optional dependency, which takes 0.5 s to import

        copy = create_study(study.settings, None)
        copy.add_trials([one.frozen(study.settings) for one in trials])
        first = study.settings.parsed_objectives[0]
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        found = optuna.importance.get_param_importances(
            copy, evaluator=evaluator,
            target=lambda one: first.lower_is_better((one.values or [0.0])[0]),
        )  # fmt: skip
    return dict(found)
