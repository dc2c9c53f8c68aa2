"""How early a ranking can be trusted: decisions after a part of the tokens, against the end.

The losses during training come from the same runs, so their learning rate has not decayed yet. A
complete run of a smaller budget may rank configurations somewhat differently.

Source of the measure: Magnusson et al. 2025, DataDecide, arXiv:2504.11393 (decision accuracy: the
share of pairs that a small experiment orders like the large one).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from mobilellm.report.comparability import comparable_subsets
from mobilellm.report.curves import Points
from mobilellm.report.run_groups import RunGroup

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
"""Parts of the tokens at which decisions are made."""
FEWEST = 3
"""Configurations and seeds without which there is no estimate."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well decisions by losses of one seed, averaged over seeds, agree with a reference."""

    pairs: float
    """Share of pairs of configurations that are in the same order as in the reference."""
    winner: float
    """Share of seeds with the same best configuration as the reference."""
    rank_correlation: float
    """Spearman's correlation of the losses with those of the reference."""
    winner_of_mean: bool
    """Whether the mean over all seeds has the same best configuration."""


@dataclass(frozen=True, kw_only=True)
class Decision(Agreement):
    """Decisions after a part of the tokens; the reference are the final losses."""

    share: float
    """Part of the tokens, above 0 and at most 1."""


@dataclass(frozen=True)
class Decisions:
    """Decisions for the largest set of comparable configurations."""

    labels: tuple[str, ...]
    num_seeds: int
    """Seeds that all configurations have in common."""
    by_share: tuple[Decision, ...]
    """In order of increasing share; the last one is the whole training, whose accuracy is below 1
    if seeds differ."""
    size: str = ""
    """Of a ladder, the size of these configurations: `50.0k body parameters`."""

    def sentence(self) -> str:
        """Return a sentence on early decisions by one seed."""
        whole = self.by_share[-1]
        early = "".join(
            f"{100 * found.pairs:.0f} % after {100 * found.share:.0f} % of the tokens, "
            for found in self.by_share
            if found.share in (0.1, 0.5)
        )
        at = f" at {self.size}" if self.size else ""
        return (
            f"Early decisions{at} (pairs that the runs of a single seed order like the final means "
            f"of {self.num_seeds} seeds): {early}{100 * whole.pairs:.0f} % at the end. At the end "
            f"{100 * whole.winner:.0f} % of the seeds have the same best configuration as the "
            "means."
        )


def early_decisions(
    sizes: Sequence[tuple[str, Sequence[RunGroup]]], metric: str | None
) -> Decisions | None:
    """The early decisions of the largest size that has enough seeds; None if there is none.

    Args:
        sizes: name and configurations of each size of a ladder, from small to large; or no name and
            all configurations.
        metric: of the comparison.
    """
    found = ((name, decisions(groups, metric)) for name, groups in reversed(sizes))
    return next((replace(each, size=name) for name, each in found if each is not None), None)


def decisions(groups: Sequence[RunGroup], metric: str | None) -> Decisions | None:
    """Return how often early losses order configurations like the final ones.

    Args:
        groups: all configurations. Only those with the same number of tokens and with curves count.
        metric: of the comparison. Curves are in nats per token, so nothing is returned for others.

    Returns:
        None if there are fewer than three configurations or common seeds.
    """
    if metric != "val_loss":
        return None
    subset = max(map(_of_equal_tokens, comparable_subsets(groups)), key=len, default=[])
    if len(subset) < FEWEST:
        return None
    seeds = sorted(set.intersection(*(set(group.seeds) for group in subset)))
    if len(seeds) < FEWEST:
        return None
    curves = [
        [{run.seed: run for run in group.runs}[seed].curve.validation for seed in seeds]
        for group in subset
    ]
    tokens = subset[0].first.tokens
    final = np.array([[run.loss[-1] for run in row] for row in curves]).mean(1)
    if final.min() == final.max():
        return None
    found = []
    for share in SHARES:
        losses = np.array([[_loss_at(run, share * tokens) for run in row] for row in curves])
        if np.isfinite(losses).all():
            found.append(Decision(share=share, **vars(agreement(losses, final))))
    labels = tuple(group.label for group in subset)
    return Decisions(labels, len(seeds), tuple(found)) if found else None


def _of_equal_tokens(subset: Sequence[RunGroup]) -> list[RunGroup]:
    """Return the most configurations that have curves and equal numbers of tokens."""
    by_tokens: dict[int, list[RunGroup]] = {}
    for group in subset:
        if all(len(run.curve.validation) for run in group.runs):
            by_tokens.setdefault(group.first.tokens, []).append(group)
    return max(by_tokens.values(), key=len, default=[])


def _loss_at(points: Points, tokens: float) -> float:
    """Return the loss, interpolated in the logarithm of tokens; NaN before the first validation.

    The validation before the first step is not used, since it only shows the initial weights.
    """
    begun = [(at, loss) for at, loss in zip(points.tokens, points.loss, strict=True) if at > 0]
    if not begun or tokens < begun[0][0]:
        return math.nan
    at, losses = zip(*begun, strict=True)
    return float(np.interp(math.log(tokens), np.log(at), losses))


def agreement(losses: np.ndarray, reference: np.ndarray) -> Agreement:
    """Return how often losses order configurations like those of a reference.

    Args:
        losses: (configurations, seeds).
        reference: the losses that count as right, (configurations,).
    """
    pairs = list(combinations(range(len(reference)), 2))
    agreeing = [
        np.sign(losses[a] - losses[b]) == np.sign(reference[a] - reference[b]) for a, b in pairs
    ]
    # Equal losses of all configurations have no order.
    varying = [column for column in losses.T if column.min() < column.max()]
    correlations = [np.corrcoef(_ranks(column), _ranks(reference))[0, 1] for column in varying] or [
        0.0
    ]
    best = int(reference.argmin())
    return Agreement(
        pairs=float(np.mean(agreeing)),
        winner=float(np.mean(losses.argmin(0) == best)),
        rank_correlation=float(np.mean(correlations)),
        winner_of_mean=bool(losses.mean(1).argmin() == best),
    )


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value; equal values share the mean of their ranks."""
    below = (values[None, :] < values[:, None]).sum(1)
    equal = (values[None, :] == values[:, None]).sum(1)
    return below + (equal + 1) / 2
