"""How far small and short runs can be trusted: their ranking of depths against a larger size's.

Source of the measure: Magnusson et al. 2025, DataDecide, arXiv:2504.11393.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mobilellm.report.budgets import training_flops
from mobilellm.report.decisions import Agreement, agreement
from mobilellm.report.run_groups import RunGroup
from mobilellm.report.rungs import Rung
from mobilellm.search.ladder_runs import TOKEN_GAP
from mobilellm.units import count_text, plural

FEWEST_DEPTHS = 3


@dataclass(frozen=True, kw_only=True)
class SizeDecision(Agreement):
    """Decisions by complete runs of one size and budget; the reference is a larger size."""

    body: float
    """Body parameters."""
    tokens: int
    share_of_flops: float
    """Training FLOPs of these runs, as a share of those of the size they are compared with."""
    num_seeds: int


@dataclass(frozen=True)
class SizeDecisions:
    """Decisions about the depths of one size by its shorter runs and by smaller sizes."""

    body: float
    """Body parameters of the size."""
    tokens: int
    depths: tuple[int, ...]
    """The depths that all of these sizes have."""
    num_seeds: int
    """Seeds of this size, whose mean is the reference."""
    rows: tuple[SizeDecision, ...]
    """From few to many FLOPs; of the size itself, only the shorter budgets."""

    def sentence(self) -> str:
        """Return a sentence on how well the smallest runs decide for the largest size."""
        pairs = len(self.depths) * (len(self.depths) - 1) // 2
        full = [row for row in self.rows if row.body < self.body]
        full = [row for row in full if row.tokens == max(
            other.tokens for other in full if other.body == row.body)]  # fmt: skip
        texts = [
            f"{100 * row.pairs:.0f} % by {count_text(row.body)} parameters "
            f"({100 * row.share_of_flops:.2g} % of the FLOPs)"
            for row in full
        ]
        caution = " With one seed as reference, noise limits these shares." * (self.num_seeds == 1)
        return (
            f"Decisions for {count_text(self.body)} body parameters by smaller models (share of "
            f"the {plural(pairs, 'pair')} of depths {', '.join(map(str, self.depths))} in the same "
            f"order, by one seed): {', '.join(texts)}.{caution}"
        )


def decisions_by_size(rungs: Sequence[Rung], metric: str) -> tuple[SizeDecisions, ...]:
    """Compare the ranking of depths by each size and budget with that of a large one.

    Args:
        rungs: the sizes of the ladder.
        metric: the loss, `val_loss` or `val_bits_per_byte`.

    Returns:
        Decisions for the largest size, and for the next smaller one that has more depths in common
        with those below it. Sizes and budgets with less than three depths, of which others may
        still be training, are left out.
    """
    complete = [rung for rung in rungs if len(_of_depths(rung.groups)) >= FEWEST_DEPTHS]
    found: list[SizeDecisions] = []
    for end in range(len(complete), 1, -1):
        decided = _decisions_for(complete[end - 1], complete[:end], metric)
        if decided is not None and all(len(decided.depths) > len(f.depths) for f in found):
            found.append(decided)
    return tuple(found)


def _decisions_for(target: Rung, rungs: Sequence[Rung], metric: str) -> SizeDecisions | None:
    """Decisions for one size by it and smaller ones; None without three common depths."""
    cells = [
        (rung, budget)
        for rung in rungs
        for budget in _budgets(rung)
        if len(_of_depths(budget)) >= FEWEST_DEPTHS
    ]
    by_depth = [_of_depths(budget) for _, budget in cells]
    common = sorted(set.intersection(*(set(found) for found in by_depth)))
    reference = _of_depths(target.groups)
    means = [interval.mean for d in common if (interval := reference[d].interval(metric))]
    if len(common) < FEWEST_DEPTHS or len(means) < len(common) or min(means) == max(means):
        return None
    final, cost = np.array(means), _flops(target.groups)
    rows = []
    for (rung, budget), found in zip(cells, by_depth, strict=True):
        if budget == target.groups:
            continue
        members = [found[depth] for depth in common]
        seeds = sorted(set.intersection(*(set(group.losses(metric)) for group in members)))
        if not seeds:
            continue
        losses = np.array([[group.losses(metric)[seed] for seed in seeds] for group in members])
        rows.append(
            SizeDecision(
                body=rung.body,
                tokens=budget[0].first.tokens,
                share_of_flops=_flops(budget) / cost,
                num_seeds=len(seeds),
                **vars(agreement(losses, final)),
            )
        )
    rows.sort(key=lambda row: row.share_of_flops)
    seeds = min(len(reference[depth].seeds) for depth in common)
    return SizeDecisions(target.body, target.tokens, tuple(common), seeds, tuple(rows))


def _budgets(rung: Rung) -> list[tuple[RunGroup, ...]]:
    """The configurations of each number of tokens, from few to many."""
    budgets: list[list[RunGroup]] = []
    for group in sorted(rung.shorter, key=lambda group: group.first.tokens):
        if budgets and group.first.tokens <= TOKEN_GAP * budgets[-1][0].first.tokens:
            budgets[-1].append(group)
        else:
            budgets.append([group])
    return [*map(tuple, budgets), rung.groups]


def _of_depths(groups: Sequence[RunGroup]) -> dict[int, RunGroup]:
    """The configuration of each depth; of several with one depth, the first."""
    found: dict[int, RunGroup] = {}
    for group in groups:
        if not group.is_shared:
            found.setdefault(group.model.num_layers, group)
    return found


def _flops(groups: Sequence[RunGroup]) -> float:
    """Mean training FLOPs of one run."""
    return float(np.mean([training_flops(group) for group in groups]))
