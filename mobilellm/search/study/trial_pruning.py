"""The decisions about one trial, from the files of its study."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobilellm.files import write_text_atomically
from mobilellm.search.study.curves import Curve, read_losses
from mobilellm.search.study.pruning import Decision, PruningRule
from mobilellm.search.study.records import StudyFiles, TrialRecord
from mobilellm.strict_json import to_json

DECISIONS = "pruning.json"
"""In the run's folder: every decision about it, in order."""


@dataclass(frozen=True)
class TrialPruning:
    """Decides whether a trial continues, and records it.

    Args:
        files: of the study.
        record: of the trial.
        rule: the rule.
        metric: the loss that is compared, `val_loss` or `val_bits_per_byte`.
        costs: names of the objectives that are known from the shape.
        budget: tokens of the whole run.
    """

    files: StudyFiles
    record: TrialRecord
    rule: PruningRule
    metric: str
    costs: tuple[str, ...]
    budget: float

    @classmethod
    def of_run(cls, run: Path) -> "TrialPruning":
        """The decisions about the run in a folder.

        Raises:
            ValueError: the run does not belong to a study.
        """
        files = StudyFiles(run.parent)
        study = files.read_study()
        record = next((one for one in files.records() if one.run == run.name), None)
        if study is None or record is None:
            raise ValueError(
                f"{run} belongs to no search; callbacks.pruning is set by mobilellm search: leave "
                "it out"
            )
        pruning = study["pruning"]
        return cls(
            files, record, PruningRule(**pruning["rule"]), pruning["metric"],
            tuple(pruning["costs"]), pruning["budget"],
        )  # fmt: skip

    @property
    def path(self) -> Path:
        """The file of the decisions."""
        return self.files.run_folder(self.record) / DECISIONS

    def decisions(self) -> list[Decision]:
        """The decisions so far."""
        return read_decisions(self.files.run_folder(self.record))

    def recorded_end(self, tokens: int) -> str | None:
        """Why the trial was ended at or before `tokens`; None if it was not."""
        ends = (one for one in self.decisions() if one.is_pruned and one.tokens <= tokens)
        return next((reason_text(one) for one in ends), None)

    def decide(self, tokens: int, losses: Mapping[str, float | None]) -> str | None:
        """Decide after a validation; a decision that is recorded is repeated.

        Args:
            tokens: trained on so far.
            losses: of this validation, by metric.

        Returns:
            Why the trial ends; None if it continues.
        """
        known = self.decisions()
        decision = next((one for one in known if one.tokens == tokens), None)
        if decision is None:
            loss = losses[self.metric]
            own = self._curve(self.record)
            before = tuple(point for point in own.losses if point[0] < tokens)
            here = ((tokens, float("nan") if loss is None else loss),)
            own = Curve(own.number, before + here, own.costs)
            others = [self._curve(one) for one in self.files.records()]
            decision = self.rule.decide(own, others, tokens, self.budget)
            if decision is None:
                return None
            record = [asdict(one) for one in [*known, decision]]
            write_text_atomically(self.path, to_json(record) + "\n")
        return reason_text(decision) if decision.is_pruned else None

    def _curve(self, record: TrialRecord) -> Curve:
        losses = read_losses(self.files.run_folder(record), self.metric)
        return Curve(record.number, losses, tuple(record.costs[name] for name in self.costs))


def read_decisions(run: Path) -> list[Decision]:
    """The decisions about a run; empty if there were none."""
    path = run / DECISIONS
    if not path.exists():
        return []
    content: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return [Decision(**{**one, "loss": _number(one["loss"])}) for one in content]


def reason_text(decision: Decision) -> str:
    """`its loss of 5.213 is above 5.101, the limit at 25 % of the budget among 7 other trials`."""
    limit = "not finite" if decision.threshold is None else f"above {decision.threshold:.4g}"
    return (
        f"its loss of {decision.loss:.4g} is {limit}, the limit at {100 * decision.rung:.0f} % of "
        f"the budget among {decision.compared} other trials"
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
