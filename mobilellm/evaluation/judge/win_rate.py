"""How often one model is preferred to another, from verdicts in both orders."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm.evaluation.judge.question import Verdict
from mobilellm.evaluation.ratios import RatioSums, ratio_record

# Points of the first model by the verdict on the pair as it is, and with A and B exchanged.
_POINTS = {"A": 1.0, "tie": 0.5, "B": 0.0}


@dataclass(frozen=True)
class Judgement:
    """The two verdicts on one pair of answers."""

    dialogue: int
    """Index of the conversation."""
    verdict: Verdict | None
    """With the first model as A; None: the reply has no verdict."""
    exchanged: Verdict | None
    """With the first model as B."""

    @property
    def points(self) -> float | None:
        """1 if the first model is preferred in both orders, 0 if it never is; None: unknown."""
        if self.verdict is None or self.exchanged is None:
            return None
        return (_POINTS[self.verdict] + 1 - _POINTS[self.exchanged]) / 2

    @property
    def is_contradictory(self) -> bool:
        """Whether the judge preferred the same position, whichever model was there."""
        return self.verdict == self.exchanged != "tie" and self.verdict is not None


def win_rate_record(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """The share of points of the first model, with its interval of 95 % over dialogues.

    Ties count as half a win, as do pairs on which the judge contradicts itself. Pairs without two
    verdicts are left out.

    Raises:
        ValueError: no pair has two verdicts.
    """
    known = [(one.dialogue, points) for one in judgements if (points := one.points) is not None]
    if not known:
        raise ValueError(
            f"none of the {len(judgements)} replies of the judge has a verdict such as [[A]]; use "
            "another judge"
        )
    sums = RatioSums(max(dialogue for dialogue, _ in known) + 1)
    for dialogue, points in known:
        sums.add("win_rate", dialogue, points)
    values = [points for _, points in known]
    return {
        "pairs": len(known),
        "wins": sum(value > 0.5 for value in values),
        "ties": sum(value == 0.5 for value in values),
        "losses": sum(value < 0.5 for value in values),
        "contradictory": sum(one.is_contradictory for one in judgements),
        "without_verdict": len(judgements) - len(known),
        **ratio_record(sums.ratios(), ["win_rate"]),
    }
