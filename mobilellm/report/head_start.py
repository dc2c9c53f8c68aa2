"""What inherited weights are worth: how many fewer tokens reach the same loss, by token budget.

The loss of runs from random weights as a function of their tokens is interpolated linearly in the
logarithm of tokens. It is never extrapolated: beyond the budgets that were trained, only a bound is
stated.

Source of the measure: the head start of sub-networks that whittle reports, arXiv:2510.07227.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobilellm.report.runs import Run, read_runs


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Tokens that random weights need for the loss of an inherited run, divided by its own."""

    value: float
    bound: str = ""
    """`at least` or `at most`, if the loss lies outside those of the runs from random weights."""

    def __str__(self) -> str:
        """E.g. `2.4` or `at least 4.0`."""
        return f"{self.bound} {self.value:.2f}".strip()

    @property
    def short(self) -> str:
        """E.g. `2.40` or `≥ 4.00`, for tables."""
        return str(self).replace("at least", "≥").replace("at most", "≤")


@dataclass(frozen=True, kw_only=True)
class HeadStartRow:
    """One token budget."""

    tokens: int
    random: float | None
    """Loss from random weights, the mean over seeds, nats per token; None without such runs."""
    inherited: float | None
    """The same from inherited weights."""
    ratio: Ratio | None
    """Of the mean losses; None without inherited runs."""
    by_seed: tuple[Ratio, ...]
    """Of each seed that has all runs, and whose losses fall with the tokens."""


@dataclass(frozen=True, kw_only=True)
class HeadStart:
    """The head start of one shape."""

    rows: tuple[HeadStartRow, ...]
    """In order of tokens."""
    origin: str
    """Folder that the weights were inherited from."""
    runs: tuple[Run, ...]


def measure_head_start(paths: Sequence[Path]) -> HeadStart:
    """Compare runs from inherited weights (`init_from`) with runs from random weights.

    Args:
        paths: folders of the runs, of one shape and one text, with several numbers of tokens.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: a kind of run is missing, or runs cannot be compared; the message says what to
            do.
    """
    runs = read_runs(paths).finished
    inherited = [run for run in runs if run.setting("init_from") is not None]
    random = [run for run in runs if run.setting("init_from") is None]
    for found, kind, remedy in (
        (inherited, "inherited", "init_from=DIR, a folder that mobilellm extract made"),
        (random, "random", "the same settings without init_from"),
    ):
        if not found:
            raise ValueError(
                f"none of the {len(runs)} runs started from {kind} weights; train some with "
                f"{remedy}"
            )
    _check_comparable(runs)
    origins = sorted({str(run.setting("init_from")) for run in inherited})
    if len(origins) > 1:
        raise ValueError(
            f"the runs inherit from {len(origins)} folders ({', '.join(origins[:2])}, …); give the "
            "runs of one"
        )
    base, own = _by_budget(random), _by_budget(inherited)
    if len(base) < 2:
        raise ValueError(
            f"runs from random weights have one number of tokens, {min(base):,}; train others, "
            "e.g. with horizons=[0.25,0.5]"
        )
    rows = tuple(_row(tokens, base, own) for tokens in sorted({*base, *own}))
    return HeadStart(rows=rows, origin=origins[0], runs=runs)


def tokens_ratio(curve: Mapping[int, float], tokens: int, loss: float) -> Ratio:
    """Tokens at which a curve reaches a loss, divided by the tokens that were used instead.

    Args:
        curve: loss by number of tokens, at least two, falling.
        tokens: those that reached the loss.
        loss: the loss, nats per token.

    Raises:
        ValueError: the curve does not fall.
    """
    budgets = sorted(curve)
    losses = [curve[budget] for budget in budgets]
    if not _falls(curve):
        raise ValueError(
            "the losses from random weights do not fall with the tokens "
            f"({', '.join(f'{curve[b]:.4f} at {b:,}' for b in budgets)}); train longer runs, or "
            "more seeds"
        )
    if loss < losses[-1]:
        return Ratio(value=budgets[-1] / tokens, bound="at least")
    if loss > losses[0]:
        return Ratio(value=budgets[0] / tokens, bound="at most")
    reached = np.interp(loss, losses[::-1], np.log(budgets[::-1]))
    return Ratio(value=float(np.exp(reached)) / tokens)


def _falls(curve: Mapping[int, float]) -> bool:
    """Whether more tokens always give a lower loss."""
    losses = [curve[budget] for budget in sorted(curve)]
    return all(later < earlier for earlier, later in itertools.pairwise(losses))


def _row(
    tokens: int, base: Mapping[int, Mapping[int, float]], own: Mapping[int, Mapping[int, float]]
) -> HeadStartRow:
    """The row of one budget."""
    mean_curve = {
        budget: float(np.mean(list(by_seed.values()))) for budget, by_seed in base.items()
    }
    losses = own.get(tokens, {})
    inherited = float(np.mean(list(losses.values()))) if losses else None
    complete = sorted(set(losses).intersection(*base.values()))
    curves = {seed: {budget: base[budget][seed] for budget in base} for seed in complete}
    return HeadStartRow(
        tokens=tokens,
        random=mean_curve.get(tokens),
        inherited=inherited,
        ratio=None if inherited is None else tokens_ratio(mean_curve, tokens, inherited),
        by_seed=tuple(
            tokens_ratio(curve, tokens, losses[seed])
            for seed, curve in curves.items()
            if _falls(curve)
        ),
    )


def _by_budget(runs: Sequence[Run]) -> dict[int, dict[int, float]]:
    """Loss by number of tokens and seed."""
    found: dict[int, dict[int, float]] = {}
    for run in runs:
        by_seed = found.setdefault(run.tokens, {})
        if run.seed in by_seed:
            raise ValueError(
                f"several runs have {run.tokens:,} tokens and seed {run.seed}, among them "
                f"{run.folder}; give runs that differ in tokens, seed and init_from only"
            )
        by_seed[run.seed] = run.val_loss
    return found


def _check_comparable(runs: Sequence[Run]) -> None:
    """Check that all runs have one shape and one text.

    Raises:
        ValueError: they do not.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.model != first.model:
            raise ValueError(
                f"{first.folder} and {run.folder} have different shapes; give the runs of one shape"
            )
        for key in ("hashes.train", "hashes.validation", "sequence_length"):
            values: tuple[Any, Any] = (first.fact(key), run.fact(key))
            if values[0] != values[1]:
                raise ValueError(
                    f"the runs differ in {key}: {values[0]} in {first.folder}, {values[1]} in "
                    f"{run.folder}; give runs on one text"
                )
