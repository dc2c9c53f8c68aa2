"""The shapes that may meet a budget, and their sizes."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from mobilellm.models import ModelConfig
from mobilellm.models.config import check_choice, check_positive
from mobilellm.models.sharing import order_of_layers

FFN_RULES = ("remainder", "paper")
GROUP_SIZES = (3, 2, 1)
DERIVED_FIELDS = ("intermediate_size", "num_attention_heads", "num_key_value_heads")

# Ratio of feed-forward width to model width: minimum, best, maximum. With ReLU there are two
# matrices instead of three, so the same number of parameters allows 1.5 times the width.
RATIOS = {"swiglu": (2.0, 8 / 3, 4.0), "relu": (3.0, 4.0, 6.0)}


@dataclass(frozen=True)
class Candidate:
    """A shape and the value of the matched quantity."""

    num_blocks: int
    hidden_size: int
    intermediate_size: int
    reached: float


@dataclass(frozen=True)
class ShapeGrid:
    """The set of allowed shapes, each of which is a depth, a width and a feed-forward width.

    Raises:
        ValueError: a step is below 1, or a model field is unknown or determined by the shape.
    """

    head_dim: int
    group_size: int | None
    alignment: int
    ffn_rule: str
    fields: Mapping[str, Any]
    """All other fields of the configuration."""

    def __post_init__(self) -> None:
        """Check the steps and the names of the fields."""
        check_choice("ffn_rule", self.ffn_rule, FFN_RULES)
        for name in ("head_dim", "group_size", "alignment"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        known = [field.name for field in fields(ModelConfig)]
        for name in self.fields:
            if name in DERIVED_FIELDS:
                raise ValueError(
                    f"{name}={self.fields[name]!r} follows from the budget and cannot be given; "
                    "use head_dim, group_size, alignment or ffn_rule, or a model of fixed shape"
                )
            check_choice("field", name, [name for name in known if name not in DERIVED_FIELDS])
        ModelConfig(**self._sizes(1, self.width_step, self.alignment))

    @property
    def width_step(self) -> int:
        """Difference between neighbouring widths, which are multiples of it."""
        return self.head_dim * (self.group_size or 1)

    @property
    def ratios(self) -> tuple[float, float, float]:
        """Ratio of feed-forward width to model width: minimum, best, maximum."""
        return RATIOS[self.fields.get("feed_forward", "swiglu")]

    def config(self, num_blocks: int, hidden_size: int, intermediate_size: int) -> ModelConfig:
        """The configuration with the given shape."""
        return ModelConfig(**self._sizes(num_blocks, hidden_size, intermediate_size))

    def even_config(
        self, num_blocks: int, block_repeats: int, hidden_size: int, intermediate_size: int
    ) -> ModelConfig:
        """The configuration with each block applied `block_repeats` times, for any scheme."""
        sizes = self._sizes(num_blocks, hidden_size, intermediate_size)
        even = {"layer_sharing": "immediate", "block_repeats": block_repeats}
        return ModelConfig(**(sizes | even))

    def _sizes(self, num_blocks: int, hidden_size: int, intermediate_size: int) -> dict[str, Any]:
        heads = hidden_size // self.head_dim
        group = self.group_size or next(size for size in GROUP_SIZES if heads % size == 0)
        return {
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "num_blocks": num_blocks,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // group,
            "head_dim": self.head_dim,
            **self.fields,
        }

    def intermediate_bounds(self, hidden_size: int) -> tuple[int, int]:
        """Minimum and maximum feed-forward width for a model width."""
        if self.ffn_rule == "paper":
            width = paper_intermediate_size(hidden_size, self.fields.get("feed_forward", "swiglu"))
            return width, width
        least, _, most = self.ratios
        low = -(-int(least * hidden_size) // self.alignment) * self.alignment
        return low, max(low, int(most * hidden_size) // self.alignment * self.alignment)

    def at_width(
        self, hidden_size: int, amount: float, num_blocks: int | None, measure: "Measure"
    ) -> Iterator[Candidate]:
        """Yield the candidates of one width nearest to `amount`, for the given or all depths."""
        low, high = self.intermediate_bounds(hidden_size)
        cost = _Cost.at_width(self, hidden_size, measure)
        for depth in [num_blocks] if num_blocks else cost.depths(amount, low, high):
            remainder = cost.intermediate_size(depth, amount)
            nearest = round(remainder / self.alignment) * self.alignment
            width = min(max(nearest, low), high)
            yield Candidate(depth, hidden_size, width, cost.total(depth, width))

    def num_layers(self, num_blocks: int) -> int:
        """Number of layers of a model with the sharing scheme and `num_blocks` blocks."""
        scheme = self.fields.get("layer_sharing", "immediate")
        return len(order_of_layers(scheme, num_blocks, self.fields.get("block_repeats", 1)))


Measure = Callable[[ModelConfig], float]


def paper_intermediate_size(hidden_size: int, feed_forward: str = "swiglu") -> int:
    """Compute the feed-forward width as in the MobileLLM paper.

    It is 8/3 of the width, rounded up to a multiple of 256. For `relu`, the paper's baseline, it is
    4 times the width.

    Source: derived from the parameter counts of Liu et al. 2024, arXiv:2402.14905, table 11.
    """
    return 4 * hidden_size if feed_forward == "relu" else 256 * -(-8 * hidden_size // (3 * 256))


@dataclass(frozen=True)
class _Cost:
    """The matched quantity for one width as a function of depth and feed-forward width F.

    It is fixed + blocks x (per_block + per_block_unit x F) + layers x (per_layer + per_layer_unit x
    F). Parameters depend on the number of stored blocks, and operations on the number of layers,
    except those of keys and values that are shared between the applications of a block.
    """

    num_layers: Callable[[int], int]
    fixed: float
    per_block: float
    per_block_unit: float
    per_layer: float
    per_layer_unit: float

    @classmethod
    def at_width(cls, grid: ShapeGrid, hidden_size: int, measure: Measure) -> "_Cost":
        """Determine the terms by measuring five configurations."""
        one, deeper, repeated, wider, wider_repeated = (
            measure(grid.even_config(blocks, repeats, hidden_size, width))
            for blocks, repeats, width in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (1, 2, 2))
        )
        per_unit = wider - one
        per_layer_unit = wider_repeated - repeated - per_unit
        per_block_unit = per_unit - per_layer_unit
        return cls(
            num_layers=grid.num_layers,
            fixed=2 * one - deeper,
            per_block=deeper - repeated - per_block_unit,
            per_block_unit=per_block_unit,
            per_layer=repeated - one - per_layer_unit,
            per_layer_unit=per_layer_unit,
        )

    def _of_blocks(self, num_blocks: int) -> tuple[float, float]:
        """Cost of all blocks without feed-forward layers, and per unit of feed-forward width."""
        layers = self.num_layers(num_blocks)
        return (
            num_blocks * self.per_block + layers * self.per_layer,
            num_blocks * self.per_block_unit + layers * self.per_layer_unit,
        )

    def total(self, num_blocks: int, intermediate_size: int) -> float:
        plain, per_unit = self._of_blocks(num_blocks)
        return self.fixed + plain + per_unit * intermediate_size

    def intermediate_size(self, num_blocks: int, amount: float) -> float:
        """The feed-forward width that meets `amount`, without regard to the bounds."""
        plain, per_unit = self._of_blocks(num_blocks)
        return (amount - self.fixed - plain) / per_unit

    def depths(self, amount: float, low: int, high: int) -> range:
        """The depths that can meet `amount` within the bounds, and one more at each end."""
        fewest = self._deepest_within(amount, high)
        return range(max(1, fewest), self._deepest_within(amount, low) + 2)

    def _deepest_within(self, amount: float, intermediate_size: int) -> int:
        """The largest number of blocks that costs at most `amount`; 0 if even one costs more."""
        above = 1
        while self.total(above, intermediate_size) <= amount:
            above *= 2
        return bisect_right(
            range(1, above), amount, key=lambda depth: self.total(depth, intermediate_size)
        )
