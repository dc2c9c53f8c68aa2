"""Trains all contenders with their best settings in alternation, and compares tokens and time."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from scripts.benchmarks.time_to_loss.trials import OURS, Outcome

Run = Callable[[str, float, int], Outcome]
"""Trains a contender with a share of the budget and a seed."""


@dataclass
class Measured:
    """The outcomes of one contender with one budget, one per round."""

    contender: str
    share: float
    """Of the full budget."""
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def losses(self) -> list[float]:
        """Final validation losses, in nats per token; infinite if training diverged."""
        return [float("inf") if one["loss"] is None else one["loss"] for one in self.outcomes]

    @property
    def loss(self) -> float:
        """Mean of the losses."""
        return statistics.fmean(self.losses)

    def row(self) -> dict[str, Any]:
        """Means and medians over the rounds, as plain data."""
        first = self.outcomes[0]
        return {
            "contender": self.contender,
            "share": self.share,
            "learning_rate": first.get("learning_rate"),
            "tokens_per_step": first.get("tokens_per_step"),
            "tokens": first.get("tokens"),
            "loss": self.loss,
            "losses": self.losses,
            **{
                f"median_{name}": statistics.median(one.get(name, 0.0) for one in self.outcomes)
                for name in ("wall_seconds", "processor_seconds", "start_seconds")
            },
        }


@dataclass(frozen=True)
class Reached:
    """How much this project needs until the mean final loss of another contender."""

    contender: str
    share_of_tokens: float | None
    """Of the smallest budget whose mean final loss is at most the contender's; None: none is."""
    wall_ratio: float | None = None
    """Our training time with that budget, divided by the contender's: median over the rounds."""
    processor_ratio: float | None = None
    """The same with processor time, which other work on the machine affects less."""
    wall_ratios: tuple[float, ...] = ()
    """One per round."""


def measure(
    run: Run, contenders: Sequence[str], shares: Sequence[float], seeds: Sequence[int]
) -> dict[tuple[str, float], Measured]:
    """Train everything once per seed; each round reverses the order.

    Args:
        run: trains one contender.
        contenders: the others, which get the full budget.
        shares: budgets of this project, as shares of the full one. Each is a run of its own, with a
            whole schedule: a learning rate that has not decayed yet says little about the loss.
        seeds: one per round.
    """
    jobs = [*((name, 1.0) for name in contenders), *((OURS, share) for share in shares)]
    found = {job: Measured(*job) for job in jobs}
    for number, seed in enumerate(seeds):
        for name, share in jobs if number % 2 == 0 else jobs[::-1]:
            found[name, share].outcomes.append(run(name, share, seed))
    return found


def reached(found: Mapping[tuple[str, float], Measured]) -> list[Reached]:
    """Compare this project with each other contender."""
    ours = sorted(
        (one for one in found.values() if one.contender == OURS), key=lambda one: one.share
    )
    return [_reached(one, ours) for one in found.values() if one.contender != OURS]


def _reached(theirs: Measured, ours: Sequence[Measured]) -> Reached:
    enough = [one for one in ours if one.loss <= theirs.loss]
    if not enough or theirs.loss == float("inf"):
        return Reached(theirs.contender, None)
    mine = enough[0]
    ratios = {
        clock: tuple(
            one[clock] / other[clock]
            for one, other in zip(mine.outcomes, theirs.outcomes, strict=True)
        )
        for clock in ("wall_seconds", "processor_seconds")
    }
    return Reached(
        contender=theirs.contender,
        share_of_tokens=mine.share,
        wall_ratio=statistics.median(ratios["wall_seconds"]),
        processor_ratio=statistics.median(ratios["processor_seconds"]),
        wall_ratios=ratios["wall_seconds"],
    )


def results(found: Mapping[tuple[str, float], Measured]) -> dict[str, Any]:
    """All results as plain data."""
    return {
        "rows": [one.row() for one in found.values()],
        "reached": [asdict(one) for one in reached(found)],
    }
