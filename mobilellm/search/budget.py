"""Search for the shape of a model that meets a budget, given its depth or width.

Models of different depth and width can only be compared fairly if something about them is equal.
`config_for_budget` takes a budget of parameters, operations, bytes or latency (see `matching`), and
`num_blocks` or `hidden_size`. It returns a configuration that meets the budget, so that all models
of a sweep have the same budget.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from mobilellm.models import ModelConfig
from mobilellm.models.config import RANGES
from mobilellm.ranges import Range, check_fields, check_value
from mobilellm.search.matching import COUNT, Matching
from mobilellm.search.shape_grid import Candidate, ShapeGrid

DEFAULT_VOCAB_SIZE = 32_000

SMALL_BUDGET = 60_000_000
"""For budgets of fewer parameters, the steps of the widths are smaller."""
PREFERRED_DEVIATION = 0.01
"""Among the shapes within this relative deviation, that with the best proportions is chosen."""

LARGEST_BUDGET = 1e13
TOLERANCE = Range(at_least=0, cap=10, remedy="0.02 is common")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BudgetSolution:
    """A configuration and its deviation from the budget."""

    config: ModelConfig
    budget: float
    """The requested amount."""
    matching: Matching
    """The quantity that meets the budget."""
    reached: float
    """The value of this quantity for the configuration."""

    @property
    def deviation(self) -> float:
        """Relative deviation from the budget; positive if the configuration exceeds it."""
        return self.reached / self.budget - 1

    def __str__(self) -> str:
        """Shape, size and deviation from the budget in one line."""
        config = self.config
        return (
            f"{config.num_blocks} blocks of width {config.hidden_size} "
            f"(intermediate_size {config.intermediate_size}, {config.num_attention_heads} heads, "
            f"{config.num_key_value_heads} for keys and values): "
            f"{self.matching.text(self.reached)}, {self.deviation:+.2%} of {self.budget:,}"
        )


@dataclass(frozen=True, kw_only=True)
class BudgetRules(Matching):
    """Rules for shapes that meet a budget, apart from the fields of `ModelConfig`."""

    head_dim: int | None = None
    """Width of a head, which divides the width. Default: 64, or 16 for budgets below 60 million;
    for latency, that of the device profile."""
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
            ValueError, FileNotFoundError: see `Matching`; or a number is out of range.
        """
        check_fields(self, head_dim=COUNT, group_size=COUNT, alignment=COUNT, tolerance=TOLERANCE)
        super().__post_init__()

    def is_covered(self, num_layers: int) -> bool:
        """Whether the matched quantity is known for models of this many layers."""
        if self.match != "latency":
            return True
        least, most = self.latency.depths
        return least <= num_layers <= most

    def grid(self, amount: float, fields: Mapping[str, Any]) -> ShapeGrid:
        """The shapes that are allowed for a budget of `amount`."""
        if self.match == "latency":
            head_dim = self.latency.head_dim
            is_small = head_dim < 64
        else:
            per_parameter = {"flops": 2, "bytes": (self.bits or 8) / 8}.get(self.match, 1)
            is_small = amount < SMALL_BUDGET * per_parameter
            head_dim = 16 if is_small else 64
        return ShapeGrid(
            head_dim=head_dim if self.head_dim is None else self.head_dim,
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
        budget: amount of the matched quantity (`Matching`): a number of parameters, of forward
            operations per token, or of bytes, or milliseconds per token; strings such as `125e6`
            are accepted.
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
            divisible, no shape meets the budget within the tolerance, or a latency is outside of
            the range of the device profile.
        FileNotFoundError: there is no device profile.

    Source: Liu et al. 2024, arXiv:2402.14905, tables 9 and 11: head size, groups, ratio, ffn_rule.
    """
    names = {field.name for field in fields(BudgetRules)}
    rules = BudgetRules(**{name: options[name] for name in names & options.keys()})
    amount = _parse_budget(budget, rules.match)
    grid = rules.grid(amount, {k: v for k, v in options.items() if k not in names})
    _check_given(num_blocks, hidden_size, grid)
    if rules.match == "latency":
        rules.latency.check_covers(
            num_layers=None if num_blocks is None else grid.num_layers(num_blocks),
            hidden_size=hidden_size,
            vocab_size=grid.fields["vocab_size"],
        )

    def rank(shape: Candidate) -> tuple[float, ...]:
        deviation = abs(shape.reached / amount - 1)
        disproportion = abs(shape.intermediate_size / shape.hidden_size - grid.ratios[1])
        if grid.ffn_rule == "paper" or deviation > min(PREFERRED_DEVIATION, rules.tolerance):
            return (1, deviation, disproportion)
        return (0, disproportion, deviation)

    candidates = list(_candidates(grid, amount, num_blocks, hidden_size, rules))
    if not candidates:
        raise ValueError(
            f"no shape with {_asked(num_blocks, hidden_size)} lies in the range of the device "
            f"profile, {rules.latency.range_text}; measure more with --depths and --widths"
        )
    best = min(candidates, key=rank)
    config = grid.config(best.num_blocks, best.hidden_size, best.intermediate_size)
    solution = BudgetSolution(config, amount, rules, rules.measure(config))
    if abs(solution.deviation) > rules.tolerance:
        raise ValueError(_refusal(solution, rules.tolerance, num_blocks, hidden_size))
    return solution


def _candidates(
    grid: ShapeGrid,
    amount: float,
    num_blocks: int | None,
    hidden_size: int | None,
    rules: BudgetRules,
) -> Iterator[Candidate]:
    """Yield at least one candidate, and all that may be nearest to the budget."""
    if hidden_size is not None:
        for shape in grid.at_width(hidden_size, amount, num_blocks, rules.measure):
            if rules.is_covered(grid.num_layers(shape.num_blocks)):
                yield shape
        return
    step = grid.width_step
    first, last = (0, math.inf) if rules.match != "latency" else rules.latency.widths
    width = max(0, -(-first // step) - 1) * step
    excess = 0.0
    # A wider model can be smaller, because its group size can be larger, but not by a third.
    while excess < 4 / 3 and width + step <= last:
        width += step
        for shape in grid.at_width(width, amount, num_blocks, rules.measure):
            yield shape
            excess = shape.reached / amount


def _parse_budget(budget: float | str, match: str) -> float:
    try:
        amount = float(budget)
    except (TypeError, ValueError):
        amount = math.nan
    least, most, example = 1.0, LARGEST_BUDGET, "125e6"
    if match == "latency":
        least, most, example = 1e-3, 1e6, "2.5 (milliseconds per token)"
    if isinstance(budget, bool) or not least <= amount <= most:
        raise ValueError(
            f"budget={budget!r} must be a number from {least:g} to {most:g}; give e.g. {example}"
        )
    return amount if match == "latency" else round(amount)


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
    matching, nearest = solution.matching, f"{solution.reached:.12g}"
    if matching.match == "latency":
        nearest = f"{solution.reached:.5g}"
    others = "another depth or width, a smaller head_dim or alignment, or a larger tolerance"
    if matching.match == "latency":
        others += f", or measure beyond {matching.latency.range_text}"
    return (
        f"budget={solution.budget:.12g} (match={matching.match}) with "
        f"{_asked(num_blocks, hidden_size)} cannot be met within tolerance={tolerance:g}; the "
        f"nearest shape has {nearest} {matching.unit} ({_shape(solution)}); use budget={nearest}, "
        f"{others}"
    )


def _asked(num_blocks: int | None, hidden_size: int | None) -> str:
    given = {"num_blocks": num_blocks, "hidden_size": hidden_size}
    return " and ".join(f"{name}={value}" for name, value in given.items() if value is not None)


def _shape(solution: BudgetSolution) -> str:
    names = ("num_blocks", "hidden_size", "intermediate_size")
    return ", ".join(f"{name}={getattr(solution.config, name)}" for name in names)
