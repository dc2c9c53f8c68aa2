"""Finding the shape that meets a budget, given the depth or the width.

A comparison of depth with width is only fair if the models are equally large. `config_for_budget`
takes a budget of parameters or operations and either `num_blocks` or `hidden_size`, and returns the
configuration that meets it, so that a sweep over depths has a constant budget.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from mobilellm.accounting import count_parameters, flops_per_token
from mobilellm.models import ModelConfig
from mobilellm.models.config import RANGES, check_choice
from mobilellm.ranges import Range, check_fields, check_value
from mobilellm.search.shape_grid import Candidate, Measure, ShapeGrid

MATCHES = ("stored", "body", "flops")
DEFAULT_VOCAB_SIZE = 32_000

SMALL_BUDGET = 60_000_000
"""Below this number of parameters (or twice as many operations) heads and widths are finer."""
PREFERRED_DEVIATION = 0.01
"""Among the shapes this close to the budget, the one with the best proportions is chosen."""

LARGEST_BUDGET = 1e13
COUNT = Range(at_least=1, cap=2**24)
TOLERANCE = Range(at_least=0, cap=10, remedy="0.02 is common")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BudgetSolution:
    """A configuration, and how well it meets the budget it was made for."""

    config: ModelConfig
    budget: int
    """Asked for: parameters, or forward operations per token."""
    match: str
    """What was matched: `stored`, `body` or `flops`."""
    reached: int
    """The configuration's amount of it."""

    @property
    def deviation(self) -> float:
        """Relative amount by which the configuration exceeds (positive) or undercuts the budget."""
        return self.reached / self.budget - 1

    def __str__(self) -> str:
        """One line: the shape, its amount, and the deviation from the budget."""
        config = self.config
        unit = {"flops": "forward FLOPs per token"}.get(self.match, f"{self.match} parameters")
        return (
            f"{config.num_blocks} blocks of width {config.hidden_size} "
            f"(intermediate_size {config.intermediate_size}, {config.num_attention_heads} heads, "
            f"{config.num_key_value_heads} for keys and values): {self.reached:,} {unit}, "
            f"{self.deviation:+.2%} of {self.budget:,}"
        )


@dataclass(frozen=True, kw_only=True)
class BudgetRules:
    """How a budget is met. The rest of a configuration is given by the names of its fields."""

    match: str = "stored"
    """What meets the budget: `stored` parameters, those of the `body` (without the embeddings), or
    `flops` (forward, per token)."""
    sequence_length: int | None = None
    """Tokens, for `flops`; default: max_position_embeddings."""
    head_dim: int | None = None
    """Width of a head; the width is a multiple of it. Default 64, and 16 below 60 million."""
    group_size: int | None = None
    """Query heads per key-value head; default: the largest of 3, 2, 1 that divides the heads."""
    alignment: int | None = None
    """The feed-forward width is a multiple of it. Default 64, and 8 below 60 million."""
    ffn_rule: str = "remainder"
    """`remainder` (as `solve_budget` says) or `paper`: 256 x ceil(8/3 x width / 256)."""
    tolerance: float = 0.02
    """Largest deviation accepted, as a share of the budget."""

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            ValueError: an unknown `match`, a number out of range.
        """
        check_fields(self, sequence_length=COUNT, head_dim=COUNT, group_size=COUNT,
                     alignment=COUNT, tolerance=TOLERANCE)  # fmt: skip
        check_choice("match", self.match, MATCHES)

    def measure(self, config: ModelConfig) -> int:
        """The amount of the matched quantity in a configuration."""
        return measure_budget(config, self.match, self.sequence_length)

    def grid(self, amount: int, fields: Mapping[str, Any]) -> ShapeGrid:
        """The shapes allowed for a budget of `amount`."""
        is_small = amount < SMALL_BUDGET * (2 if self.match == "flops" else 1)
        return ShapeGrid(
            head_dim=(16 if is_small else 64) if self.head_dim is None else self.head_dim,
            group_size=self.group_size,
            alignment=(8 if is_small else 64) if self.alignment is None else self.alignment,
            ffn_rule=self.ffn_rule,
            fields={"vocab_size": DEFAULT_VOCAB_SIZE, **fields},
        )


def config_for_budget(
    budget: float | str = 125_000_000,
    num_blocks: int | None = None,
    hidden_size: int | None = None,
    **options: Any,
) -> ModelConfig:
    """The configuration that `solve_budget` finds; how far off the budget it is gets logged.

    Args:
        budget: parameters, or forward operations per token with match=flops; `125e6` is fine.
        num_blocks: blocks stored; where it is given alone, the width follows.
        hidden_size: width; where it is given alone, the depth follows.
        options: fields of `BudgetRules` (match, tolerance, head_dim …) and of `ModelConfig`
            (vocab_size, block_repeats, tie_word_embeddings …).

    Raises:
        ValueError: as `solve_budget`.
    """
    solution = solve_budget(budget, num_blocks, hidden_size, **options)
    logger.debug("%s", solution)
    return solution.config


def solve_budget(
    budget: float | str = 125_000_000,
    num_blocks: int | None = None,
    hidden_size: int | None = None,
    **options: Any,
) -> BudgetSolution:
    """Find the shape that meets a budget best, given its depth, its width, or both.

    Widths are multiples of the head size. At each the feed-forward width takes what remains of the
    budget, between 2 and 4 times the width; of the shapes within 1 % of the budget the one with the
    ratio nearest 8/3 is taken, and where there is none, the shape nearest the budget. (Two matrices
    instead of three, feed_forward=relu, hold as much at 3 to 6 times the width, nearest 4.)

    Args:
        budget: as for `config_for_budget`, like all arguments.
        num_blocks: blocks stored, or None.
        hidden_size: width, or None.
        options: fields of `BudgetRules` and of `ModelConfig`.

    Raises:
        ValueError: neither depth nor width given, an unknown choice or field, sizes that do not
            divide, or a budget that no shape meets within the tolerance (the nearest is named).

    Source: Liu et al. 2024, arXiv:2402.14905, tables 9 and 11: head size, groups, ratio, ffn_rule.
    """
    amount = _parse_budget(budget)
    names = {field.name for field in fields(BudgetRules)}
    rules = BudgetRules(**{name: options[name] for name in names & options.keys()})
    grid = rules.grid(amount, {k: v for k, v in options.items() if k not in names})
    _check_given(num_blocks, hidden_size, grid)

    def rank(shape: Candidate) -> tuple[float, ...]:
        deviation = abs(shape.reached / amount - 1)
        disproportion = abs(shape.intermediate_size / shape.hidden_size - grid.ratios[1])
        if grid.ffn_rule == "paper" or deviation > min(PREFERRED_DEVIATION, rules.tolerance):
            return (1, deviation, disproportion)
        return (0, disproportion, deviation)

    best = min(_candidates(grid, amount, num_blocks, hidden_size, rules.measure), key=rank)
    config = grid.config(best.num_blocks, best.hidden_size, best.intermediate_size)
    solution = BudgetSolution(config, amount, rules.match, rules.measure(config))
    if abs(solution.deviation) > rules.tolerance:
        raise ValueError(_refusal(solution, rules.tolerance, num_blocks, hidden_size))
    return solution


def measure_budget(config: ModelConfig, match: str, sequence_length: int | None = None) -> int:
    """The amount of the matched quantity in a configuration.

    Args:
        config: the configuration.
        match: `stored` or `body` (parameters), or `flops` (forward, per token).
        sequence_length: tokens, for `flops`; default: max_position_embeddings.

    Raises:
        ValueError: an unknown `match`.
    """
    check_choice("match", match, MATCHES)
    if match == "flops":
        return flops_per_token(config, sequence_length or config.max_position_embeddings).forward
    counts = count_parameters(config)
    return counts.stored if match == "stored" else counts.body


def _candidates(
    grid: ShapeGrid,
    amount: int,
    num_blocks: int | None,
    hidden_size: int | None,
    measure: Measure,
) -> Iterator[Candidate]:
    """At least one candidate, and all that may be nearest to the budget."""
    if hidden_size is not None:
        yield from grid.at_width(hidden_size, amount, num_blocks, measure)
        return
    width = 0
    excess = 0.0
    # A wider model may be smaller, as its heads may group better, but never by a third.
    while excess < 4 / 3:
        width += grid.width_step
        for shape in grid.at_width(width, amount, num_blocks, measure):
            yield shape
            excess = shape.reached / amount


def _parse_budget(budget: float | str) -> int:
    try:
        amount = float(budget)
    except (TypeError, ValueError):
        amount = math.nan
    if isinstance(budget, bool) or not 1 <= amount <= LARGEST_BUDGET:
        raise ValueError(
            f"budget={budget!r} must be a number from 1 to {LARGEST_BUDGET:g}; give e.g. 125e6"
        )
    return round(amount)


def _check_given(num_blocks: int | None, hidden_size: int | None, grid: ShapeGrid) -> None:
    if num_blocks is None and hidden_size is None:
        raise ValueError(
            "num_blocks=None and hidden_size=None leave the shape open; give one of them"
        )
    for name, value in (("num_blocks", num_blocks), ("hidden_size", hidden_size)):
        if value is not None:
            check_value(name, value, int, RANGES[name])
    step = grid.width_step
    if hidden_size is not None and hidden_size % step:
        below = max(step, hidden_size // step * step)
        made_of = f"head_dim={grid.head_dim}"
        if grid.group_size is not None:
            made_of += f" x group_size={grid.group_size}"
        raise ValueError(
            f"hidden_size={hidden_size} must be divisible by {made_of}; "
            f"use {below} or {hidden_size // step * step + step}, or another head_dim"
        )


def _refusal(
    solution: BudgetSolution, tolerance: float, num_blocks: int | None, hidden_size: int | None
) -> str:
    given = {"num_blocks": num_blocks, "hidden_size": hidden_size}
    asked = " and ".join(f"{name}={value}" for name, value in given.items() if value is not None)
    return (
        f"budget={solution.budget} (match={solution.match}) with {asked} cannot be met within "
        f"tolerance={tolerance:g}; the nearest shape has {solution.reached} "
        f"({_shape(solution)}); use budget={solution.reached}, another depth or width, a smaller "
        "head_dim or alignment, or a larger tolerance"
    )


def _shape(solution: BudgetSolution) -> str:
    names = ("num_blocks", "hidden_size", "intermediate_size")
    return ", ".join(f"{name}={getattr(solution.config, name)}" for name in names)
