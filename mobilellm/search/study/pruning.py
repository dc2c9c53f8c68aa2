"""When a trial of a search ends early, as a pure function of the losses so far.

Successive halving lets a share of 1 / factor of the trials pass each rung, and a rung has `factor`
times the tokens of the one before (Jamieson and Talwalkar 2016, arXiv:1502.07943; in its
asynchronous form, in which a trial is compared with those that have reached the rung before it, Li
et al. 2020, arXiv:1810.05934). Hyperband spreads the trials over brackets whose first rungs differ
(Li et al. 2018, arXiv:1603.06560). The median rule ends a trial whose best loss so far is above the
median of the losses of the others at the same tokens (Golovin et al. 2017, Google Vizier).

With several objectives, a trial is compared only with those that cost at most as much in every
other objective: it ends if it is far from the front of these.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mobilellm.models.checks import check_choice
from mobilellm.ranges import Range, check_fields
from mobilellm.search.study.curves import Curve, is_no_larger

RULES = ("none", "halving", "hyperband", "median")


@dataclass(frozen=True)
class Decision:
    """Whether a trial continues after a validation, and why."""

    tokens: int
    """Tokens of the validation."""
    rung: float
    """Share of the budget at which the trials are compared."""
    loss: float
    """Of this trial."""
    threshold: float | None
    """The largest loss with which it would continue; None if it was not compared."""
    compared: int
    """Number of other trials that it was compared with."""
    is_pruned: bool


@dataclass(frozen=True, kw_only=True)
class PruningRule:
    """A rule with its settings; conf/search.yaml describes each field.

    Raises:
        ValueError: the rule is unknown, or a number is out of range.
    """

    rule: str = "none"
    first_rung: float = 0.2
    factor: int = 3
    margin: float = 0.0
    startup_trials: int = 2

    def __post_init__(self) -> None:
        """Check the settings."""
        check_choice("search.pruning.rule", self.rule, RULES)
        check_fields(
            self, "search.pruning.", first_rung=Range(above=0, below=1),
            factor=Range(at_least=2, cap=1000), margin=Range(at_least=0, cap=1e6),
            startup_trials=Range(at_least=1, cap=1_000_000),
        )  # fmt: skip

    @property
    def halving_rungs(self) -> tuple[float, ...]:
        """Shares of the budget: `first_rung`, and each `factor` times the one before, below 1."""
        number = math.ceil(math.log(1 / self.first_rung, self.factor) - 1e-9)
        return tuple(self.first_rung * self.factor**place for place in range(max(1, number)))

    def bracket(self, number: int) -> int:
        """The bracket of a trial: with hyperband, its first rung is the one of this place."""
        return number % (len(self.halving_rungs) + 1) if self.rule == "hyperband" else 0

    def rungs(self, number: int) -> tuple[float, ...]:
        """Shares of the budget at which this trial is compared with others.

        The last bracket of hyperband has none: its trials use their whole budget. The median rule
        compares at each validation from `first_rung`, for which this is the start.
        """
        return self.halving_rungs[self.bracket(number) :]

    def decide(
        self, own: Curve, others: Sequence[Curve], tokens: int, budget: float
    ) -> Decision | None:
        """Decide after a validation.

        Args:
            own: the curve of the trial, up to this validation.
            others: the curves of the other trials so far; those that are still training too.
            tokens: of this validation.
            budget: tokens of the whole run.

        Returns:
            None if the trial is not compared with others at this validation.
        """
        loss = own.loss_at(tokens)
        rung = self._rung(own, tokens, budget)
        if rung is None or loss is None:
            return None
        rivals = [
            other
            for other in others
            if other.number != own.number
            and self.bracket(other.number) == self.bracket(own.number)
            and is_no_larger(other.costs, own.costs)
        ]
        losses = [value for other in rivals if (value := self._value(other, rung * budget))
                  is not None]  # fmt: skip
        limit = self._limit(losses, loss)
        mine = loss if self.rule != "median" else own.best_until(tokens) or loss
        is_pruned = not math.isfinite(loss) or (limit is not None and mine > limit + self.margin)
        threshold = None if limit is None else limit + self.margin
        return Decision(tokens, rung, loss, threshold, len(losses), is_pruned)

    def _rung(self, own: Curve, tokens: int, budget: float) -> float | None:
        """The rung that this validation is the first to reach; None if there is none."""
        earlier = max((done for done, _ in own.losses if done < tokens), default=0)
        if tokens >= budget:
            return None
        if self.rule == "median":
            return tokens / budget if tokens >= self.first_rung * budget else None
        reached = [rung for rung in self.rungs(own.number) if earlier < rung * budget <= tokens]
        return max(reached, default=None)

    def _value(self, other: Curve, tokens: float) -> float | None:
        """The loss with which another trial is compared."""
        return other.loss_at(tokens)

    def _limit(self, losses: Sequence[float], own: float) -> float | None:
        """The largest loss with which a trial continues; None: it is not compared."""
        finite: list[float] = [value for value in losses if math.isfinite(value)]
        if len(losses) < self.startup_trials or not finite:
            return None
        if self.rule == "median":
            # A diverged trial is worse than every other; NaN would make the median undefined.
            median = statistics.median(v if math.isfinite(v) else math.inf for v in losses)
            return float(median)
        ranked: list[float] = sorted([*finite, *([own] if math.isfinite(own) else [])])
        kept = max(1, math.ceil((len(losses) + 1) / self.factor))
        return ranked[min(kept, len(ranked)) - 1]


def replay(
    rule: PruningRule, curves: Sequence[Curve], budget: float
) -> Iterator[tuple[Curve, Decision | None]]:
    """Apply a rule to recorded curves, one trial after the other, as one worker would.

    Args:
        rule: the rule.
        curves: the whole curve of each trial, in the order of the trials.
        budget: tokens of the whole run.

    Yields:
        The curve as far as the trial would have trained, and the decision that ended it, if any.
    """
    seen: list[Curve] = []
    for curve in curves:
        ended = None
        for tokens, _ in curve.losses:
            decision = rule.decide(curve.until(tokens), seen, tokens, budget)
            if decision is not None and decision.is_pruned:
                ended = decision
                break
        kept = curve if ended is None else curve.until(ended.tokens)
        seen.append(kept)
        yield kept, ended
