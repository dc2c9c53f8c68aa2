"""The base shape of a parametrisation: the shape for which the settings are meant."""

from bisect import bisect_left
from dataclasses import dataclass

from mobilellm.models.config import WIDTH, BlockShape, ModelConfig
from mobilellm.models.sharing import order_of_layers
from mobilellm.ranges import Range, check_fields

Size = tuple[float, float]
"""Rows and columns (out, in); those of a base shape may be fractions."""

LAYERS = Range(at_least=1, cap=100_000)
ROWS_AND_COLUMNS = {
    "q_proj": ("queries", "hidden"),
    "k_proj": ("keys", "hidden"),
    "v_proj": ("keys", "hidden"),
    "o_proj": ("hidden", "queries"),
    "gate_proj": ("inner", "hidden"),
    "up_proj": ("inner", "hidden"),
    "down_proj": ("hidden", "inner"),
}
"""Which widths of a block the rows and columns of its matrices have."""


@dataclass(frozen=True, kw_only=True)
class BaseShape:
    """Sizes of the base shape.

    What is not given is in the same proportion to the width as in the model: feed-forward width and
    number of heads. Layer sharing and the number of repeats are the model's.

    Raises:
        ValueError: a number is out of range, or the numbers of heads do not divide.
    """

    base_width: int
    """hidden_size of the base shape."""
    base_depth: int | None = None
    """Layers that the base shape runs (applications of blocks); None: depth changes no setting."""
    base_intermediate_size: int | None = None
    """Feed-forward width of the base shape; None: in proportion."""
    base_num_attention_heads: int | None = None
    """Query heads of the base shape; None: in proportion."""
    base_num_key_value_heads: int | None = None
    """Key and value heads of the base shape; None: as many per query head as in the model."""
    base_head_dim: int | None = None
    """Width of a head of the base shape, for attention scores that fall as 1 / head_dim; None: as
    in the model."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_fields(
            self, base_width=WIDTH, base_depth=LAYERS, base_intermediate_size=WIDTH,
            base_num_attention_heads=WIDTH, base_num_key_value_heads=WIDTH, base_head_dim=WIDTH,
        )  # fmt: skip
        heads, kv_heads = self.base_num_attention_heads, self.base_num_key_value_heads
        if kv_heads is not None and heads is None:
            raise ValueError(
                f"base_num_key_value_heads={kv_heads} needs base_num_attention_heads; give both, "
                "or neither"
            )
        if heads is not None and kv_heads is not None and heads % kv_heads:
            raise ValueError(
                f"base_num_attention_heads={heads} must be divisible by "
                f"base_num_key_value_heads={kv_heads}; use a number that divides it"
            )

    def check(self, config: ModelConfig) -> None:
        """Check that a model of this base shape exists that the configuration is a larger form of.

        Raises:
            ValueError: layers that its layer sharing cannot run, or a fraction of a head.
        """
        self._check_depth(config)
        self._check_heads(config)

    def width_ratio(self, config: ModelConfig) -> float:
        """Width of the model as a multiple of that of the base shape."""
        return config.hidden_size / self.base_width

    def depth_ratio(self, config: ModelConfig) -> float:
        """Depth of the model as a multiple of that of the base shape; 1 if depth is not scaled."""
        return 1.0 if self.base_depth is None else config.num_layers / self.base_depth

    def head_ratio(self, config: ModelConfig) -> float:
        """Width of the model's heads as a multiple of that of the base shape."""
        head_dim: int = config.head_dim  # pyright: ignore[reportAssignmentType]
        return 1.0 if self.base_head_dim is None else head_dim / self.base_head_dim

    def size_of(self, config: ModelConfig, matrix: str) -> Size:
        """Rows and columns that a matrix of a block has in the base shape."""
        _, index, _, name = matrix.split(".")
        widths = self._widths(config, config.block_shapes[int(index)])
        rows, columns = ROWS_AND_COLUMNS[name]
        return widths[rows], widths[columns]

    def _widths(self, config: ModelConfig, shape: BlockShape) -> dict[str, float]:
        head_dim: int = config.head_dim  # pyright: ignore[reportAssignmentType]
        # Multiplied before divided, so that whole numbers come out whole.
        inner, queries, keys = (
            width * self.base_width / config.hidden_size
            for width in (
                shape.intermediate_size,
                shape.num_attention_heads * head_dim,
                shape.num_key_value_heads * head_dim,
            )
        )
        if self.base_num_attention_heads is not None:
            base_head_dim = self.base_head_dim or head_dim
            keys *= self.base_num_attention_heads * base_head_dim / queries
            queries = self.base_num_attention_heads * base_head_dim
            if self.base_num_key_value_heads is not None:
                keys = self.base_num_key_value_heads * base_head_dim
        return {
            "hidden": self.base_width,
            "inner": self.base_intermediate_size or inner,
            "queries": queries,
            "keys": keys,
        }

    def _check_depth(self, config: ModelConfig) -> None:
        """Check that the base shape can run `base_depth` layers with the model's layer sharing."""
        if self.base_depth is None or not config.is_shared:
            return

        def depth(blocks: int) -> int:
            return len(order_of_layers(config.layer_sharing, blocks, config.block_repeats))

        # More blocks never run fewer layers, and never fewer layers than there are blocks.
        blocks = 1 + bisect_left(range(1, self.base_depth + 1), self.base_depth, key=depth)
        if depth(blocks) != self.base_depth:
            near = " or ".join(str(depth(n)) for n in (blocks - 1, blocks) if n)
            raise ValueError(
                f"base_depth={self.base_depth} counts applications, and blocks that run "
                f"{config.block_repeats} times (layer_sharing={config.layer_sharing}) cannot be "
                f"applied so often; use {near}"
            )

    def _check_heads(self, config: ModelConfig) -> None:
        """Check that the base shape has whole heads, if the blocks of the model are alike."""
        shapes = set(config.block_shapes)
        if self.base_num_attention_heads is not None or len(shapes) > 1:
            return
        head_dim: int = self.base_head_dim or config.head_dim  # pyright: ignore
        heads = self._widths(config, shapes.pop())["queries"] / head_dim
        if not heads.is_integer() or heads < 1:
            given = "base_head_dim" if self.base_head_dim else "head_dim"
            raise ValueError(
                f"base_width={self.base_width} gives {heads:g} attention heads with {given}="
                f"{head_dim}, in proportion to the model's; use a base_width at which they are "
                "whole, or give base_num_attention_heads"
            )
