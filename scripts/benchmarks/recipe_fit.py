"""Fits the recipe rule to a grid of runs: the best learning rate and the best size of a step."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from mobilellm.optim.recipe_rule import RecipeRule, Setting


@dataclass(frozen=True, kw_only=True)
class GridRun:
    """One finished run of the grid."""

    optimizer: str
    width: int
    depth: int
    tokens: float
    """Training tokens."""
    step: int
    """Tokens per optimizer step."""
    rate: float
    """Peak learning rate."""
    loss: float
    """Validation loss in nats per token."""

    @property
    def setting(self) -> Setting:
        """Budget and shape."""
        return Setting(tokens=self.tokens, width=self.width, depth=self.depth)


Rates = dict[float, float]
"""Loss by learning rate."""
Grid = dict[Setting, dict[int, Rates]]
"""Losses by setting, tokens per step and learning rate."""


def make_grid(runs: Iterable[GridRun], optimizer: str) -> Grid:
    """Arrange the runs of one optimizer; the mean counts if runs differ only by their seed."""
    losses: dict[tuple[Setting, int, float], list[float]] = defaultdict(list)
    for run in runs:
        if run.optimizer == optimizer:
            losses[run.setting, run.step, run.rate].append(run.loss)
    grid: Grid = {}
    for (setting, step, rate), found in sorted(losses.items(), key=lambda item: item[0][1:]):
        grid.setdefault(setting, {}).setdefault(step, {})[rate] = math.fsum(found) / len(found)
    return grid


def minimum(losses: Mapping[float, float]) -> tuple[float, float] | None:
    """Place and value of the minimum of a parabola through the best place and its neighbours.

    Args:
        losses: by place, above 0; the parabola is in the logarithm of the place.

    Returns:
        None if the best place is the lowest or the highest.
    """
    places = sorted(losses)
    best = min(range(len(places)), key=lambda index: losses[places[index]])
    if not 0 < best < len(places) - 1:
        return None
    near = places[best - 1 : best + 2]
    square, linear, constant = np.polyfit(np.log(near), [losses[place] for place in near], 2)
    at = -linear / (2 * square)
    return math.exp(at), constant + linear * at + square * at**2


def fit_rule(grid: Grid, reference: Setting, schedule: str) -> RecipeRule:
    """Fit both power laws by least squares in logarithms.

    Raises:
        ValueError: the grid has too few interior optima for the exponents.
    """
    best_steps = [(s, best) for s, steps in grid.items() if (best := _best_step(steps))]
    rates = [
        (setting, step, found[0])
        for setting, steps in grid.items()
        for step, losses in steps.items()
        if (found := minimum(losses))
    ]
    if len(best_steps) < 2 or len(rates) < 5:
        raise ValueError(
            f"the grid has {len(rates)} interior optima of the learning rate and {len(best_steps)} "
            "of tokens per step, and the laws need 5 and 2; add learning rates and sizes of steps"
        )
    slope, height = np.polyfit(
        [math.log(s.tokens / reference.tokens) for s, _ in best_steps],
        [math.log(step) for _, step in best_steps],
        1,
    )
    step = math.exp(height)
    names = ("tokens", "width", "depth", "step")
    rows = [
        [1.0, *(math.log(_values(s, at)[n] / _values(reference, step)[n]) for n in names)]
        for s, at, _ in rates
    ]
    solution, *_ = np.linalg.lstsq(np.array(rows), np.log([rate for *_, rate in rates]), rcond=None)
    return RecipeRule(
        reference=reference,
        step=round(step),
        step_exponent=round(float(slope), 3),
        learning_rate=float(f"{math.exp(solution[0]):.3g}"),
        exponents={n: round(float(v), 3) for n, v in zip(names, solution[1:], strict=True)},
        fitted={
            name: (min(_of(grid, name)), max(_of(grid, name)))
            for name in ("tokens", "width", "depth")
        }
        | {"step": (min(map(min, grid.values())), max(map(max, grid.values())))},
        schedule=schedule,
    )


def excess(grid: Grid, rule: RecipeRule) -> Iterator[tuple[Setting, int, float, float]]:
    """Yield for each setting what the rule chooses and how much its loss exceeds the best one.

    Yields:
        Setting, tokens per step, learning rate, and nats per token above the lowest loss of the
        grid, interpolated between learning rates. Settings without runs at that size of a step, or
        at rates on both sides, are left out.
    """
    for setting, steps in grid.items():
        step = 2 ** round(math.log2(rule.best_step(setting.tokens)))
        rate = rule.best_rate(setting, step)
        losses = steps.get(step, {})
        if losses and min(losses) <= rate <= max(losses):
            best = min(found for rates in steps.values() for found in rates.values())
            yield setting, step, rate, _interpolated(losses, rate) - best


def read_grid(path: Path) -> list[GridRun]:
    """Read the runs of a grid from a CSV file that `write_grid` wrote."""
    types = {field.name: field.type for field in fields(GridRun)}
    with path.open(newline="", encoding="utf-8") as file:
        return [
            GridRun(**{name: types[name](value) for name, value in row.items()})  # pyright: ignore[reportCallIssue]
            for row in csv.DictReader(file)
        ]


def write_grid(path: Path, runs: Sequence[GridRun]) -> None:
    """Write the runs of a grid as CSV, one row each."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(GridRun))
        writer.writerows(astuple(run) for run in runs)


def _best_step(steps: dict[int, Rates]) -> float | None:
    """The best size of a step, or the best of those tried if it is the smallest or the largest."""
    if len(steps) < 2:
        return None
    losses = {float(step): min(rates.values()) for step, rates in steps.items()}
    found = minimum(losses)
    return found[0] if found else min(losses, key=lambda step: losses[step])


def _interpolated(losses: Rates, rate: float) -> float:
    """The loss at a rate, from the parabola through the three nearest ones."""
    near = sorted(losses, key=lambda at: abs(math.log(at / rate)))[:3]
    curve = np.polyfit(np.log(near), [losses[at] for at in near], len(near) - 1)
    return float(np.polyval(curve, math.log(rate)))


def _values(setting: Setting, step: float) -> dict[str, float]:
    return {**setting.values(), "step": step}


def _of(grid: Grid, name: str) -> list[float]:
    return [setting.values()[name] for setting in grid]
