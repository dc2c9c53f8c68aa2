"""Search for the shape of a model that meets a budget, given its depth or width.

Models of different depth and width can only be compared fairly if they have the same size.
`config_for_budget` takes a budget of parameters or operations, and `num_blocks` or `hidden_size`.
It returns a configuration that meets the budget, so that all models of a sweep have the same
budget.
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
"""For smaller budgets (in operations: twice this number), the steps of the widths are smaller."""
PREFERRED_DEVIATION = 0.01
"""Among the shapes within this relative deviation, that with the best proportions is chosen."""

LARGEST_BUDGET = 1e13
COUNT = Range(at_least=1, cap=2**24)
TOLERANCE = Range(at_least=0, cap=10, remedy="0.02 is common")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BudgetSolution:
    """A configuration and its deviation from the budget."""

    config: ModelConfig
    budget: int
    """The requested parameters, or forward operations per token."""
    match: str
    """The quantity that meets the budget: `stored`, `body` or `flops`."""
    reached: int
    """The value of this quantity for the configuration."""

    @property
    def deviation(self) -> float:
        """Relative deviation from the budget; positive if the configuration exceeds it."""
        return self.reached / self.budget - 1

    def __str__(self) -> str:
        """Shape, size and deviation from the budget in one line."""
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
    """Rules for shapes that meet a budget, apart from the fields of `ModelConfig`."""

    match: str = "stored"
    """The quantity that meets the budget: `stored` parameters, parameters of the `body` (without
    embeddings), or `flops` (forward, per token)."""
    sequence_length: int | None = None
    """Number of tokens for `flops`; default: max_position_embeddings."""
    head_dim: int | None = None
    """Width of a head, which divides the width. Default: 64, or 16 for budgets below 60 million."""
    group_size: int | None = None
    """Query heads per key-value head; default: the largest of 3, 2, 1 that divides their number."""
    alignment: int | None = None
    """Divisor of the feed-forward width. Default: 64, or 8 for budgets below 60 million."""
    ffn_rule: str = "remainder"
    """Feed-forward width: `remainder` (see `solve_budget`) or `paper`: 256 x ceil(width / 96)."""
    tolerance: float = 0.02
    """Largest relative deviation from the budget that is accepted."""

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            ValueError: `match` is unknown, or a number is out of range.
        """
        check_fields(self, sequence_length=COUNT, head_dim=COUNT, group_size=COUNT,
                     alignment=COUNT, tolerance=TOLERANCE)  # fmt: skip
        check_choice("match", self.match, MATCHES)

    def measure(self, config: ModelConfig) -> int:
        """The value of the matched quantity for a configuration."""
        return measure_budget(config, self.match, self.sequence_length)

    def grid(self, amount: int, fields: Mapping[str, Any]) -> ShapeGrid:
        """The shapes that are allowed for a budget of `amount`."""
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
    """Find the configuration that meets a budget best; see `solve_budget`.

    Args:
        budget: number of parameters, or of forward operations per token if match=flops; strings
            such as `125e6` are accepted.
        num_blocks: number of stored blocks; None: derived from the width and the budget.
        hidden_size: width; None: derived from the number of blocks and the budget.
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

    Widths are multiples of the width of a head. For each width, the feed-forward width is chosen to
    use the rest of the budget, within 2 to 4 times the width. Among the shapes within 1 % of the
    budget, the one whose ratio of these widths is nearest to 8/3 is returned; if there is none, the
    shape nearest to the budget. With feed_forward=relu, which has two matrices instead of three,
    the ratio is between 3 and 6 and preferably 4.

    Args:
        budget: as for `config_for_budget`.
        num_blocks: number of stored blocks, or None.
        hidden_size: width, or None.
        options: fields of `BudgetRules` and of `ModelConfig`.

    Raises:
        ValueError: neither depth nor width is given, a choice or field is unknown, sizes are not
            divisible, or no shape meets the budget within the tolerance.

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
    """Compute the quantity that is compared with a budget.

    Args:
        config: the configuration.
        match: `stored` or `body` (parameters), or `flops` (forward, per token).
        sequence_length: number of tokens for `flops`; default: max_position_embeddings.

    Raises:
        ValueError: `match` is unknown.
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
    """Yield at least one candidate, and all that may be nearest to the budget."""
    if hidden_size is not None:
        yield from grid.at_width(hidden_size, amount, num_blocks, measure)
        return
    width = 0
    excess = 0.0
    # A wider model can be smaller, because its group size can be larger, but not by a third.
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
