"""The plan of structured pruning: indices of the kept blocks, and of their heads and channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mobilellm.compression.plan import Plan
from mobilellm.compression.tables import MAX_ROWS, Column, make_table
from mobilellm.models.config import ModelConfig, one_or_each
from mobilellm.models.sharing import order_of_layers, order_without

if TYPE_CHECKING:
    from rich.table import Table

Indices = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class StructuredPlan(Plan):
    """Indices of the kept blocks, heads and channels in the original model.

    Raises:
        ValueError: nothing is kept, indices are not ascending, or the number of lists of heads or
            channels differs from the number of kept blocks.
    """

    blocks: Indices
    """Indices of the kept stored blocks."""
    heads: tuple[Indices, ...]
    """Query heads of each kept block. A key-value head is kept if a query head of its group is
    kept, and all kept groups must keep the same number of query heads."""
    channels: tuple[Indices, ...]
    """Feed-forward channels of each kept block."""

    def __post_init__(self) -> None:
        """Convert lists to tuples and check the values."""
        object.__setattr__(self, "blocks", tuple(self.blocks))
        _check_ascending("blocks", self.blocks)
        for name in ("heads", "channels"):
            values = tuple(tuple(indices) for indices in getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) != len(self.blocks):
                raise ValueError(
                    f"{name} is given for {len(values)} blocks, but {len(self.blocks)} are kept; "
                    "give one list for each kept block"
                )
            for block, indices in zip(self.blocks, values, strict=True):
                _check_ascending(f"{name} of block {block}", indices)

    @classmethod
    def whole(cls, config: ModelConfig, blocks: Sequence[int] | None = None) -> StructuredPlan:
        """Create a plan that keeps all heads and channels of the given blocks (default: all)."""
        blocks = range(config.num_blocks) if blocks is None else blocks
        shapes = [config.block_shapes[block] for block in blocks]
        return cls(
            blocks=tuple(blocks),
            heads=tuple(tuple(range(shape.num_attention_heads)) for shape in shapes),
            channels=tuple(tuple(range(shape.intermediate_size)) for shape in shapes),
        )

    def key_value_heads(self, config: ModelConfig) -> tuple[Indices, ...]:
        """The kept key-value heads of each kept block.

        Raises:
            ValueError: the groups of a block keep different numbers of query heads.
        """
        kept = []
        for block, heads in zip(self.blocks, self.heads, strict=True):
            shape = config.block_shapes[block]
            size = shape.num_attention_heads // shape.num_key_value_heads
            groups = Counter(head // size for head in heads)
            if len(set(groups.values())) > 1:
                raise ValueError(
                    f"block {block} keeps {dict(groups)} query heads per key-value head; keep the "
                    "same number of query heads in each kept group"
                )
            kept.append(tuple(groups))
        return tuple(kept)

    def config_after(self, config: ModelConfig) -> ModelConfig:
        """The configuration of the pruned model.

        Raises:
            ValueError: an index is not in the model, groups keep different numbers of heads, or a
                block contains compressed matrices.
        """
        self.check(config)
        return replace(
            config,
            num_blocks=len(self.blocks),
            intermediate_size=one_or_each([len(kept) for kept in self.channels]),
            num_attention_heads=one_or_each([len(kept) for kept in self.heads]),
            num_key_value_heads=one_or_each([len(k) for k in self.key_value_heads(config)]),
        )

    def check(self, config: ModelConfig) -> None:
        """Check that the plan can be applied to this model.

        Raises:
            ValueError: as `config_after`.
        """
        check_dense_blocks(config)
        _check_below("blocks", self.blocks, config.num_blocks)
        for block, heads, channels in zip(self.blocks, self.heads, self.channels, strict=True):
            shape = config.block_shapes[block]
            _check_below(f"heads of block {block}", heads, shape.num_attention_heads)
            _check_below(f"channels of block {block}", channels, shape.intermediate_size)
        self.key_value_heads(config)
        self._check_order(config)

    def _check_order(self, config: ModelConfig) -> None:
        """Check that the model's sharing scheme runs the kept blocks in their original order."""
        scheme, repeats = config.layer_sharing, config.block_repeats
        wanted = order_without(config.layer_order, self.blocks)
        found = order_of_layers(scheme, len(self.blocks), repeats)
        if found != wanted:
            raise ValueError(
                f"layer_sharing={scheme!r} runs {len(self.blocks)} blocks in the order "
                f"{' '.join(map(str, found))}, but without the removed blocks the order would have "
                f"to be {' '.join(map(str, wanted))}; keep all blocks, or use another scheme"
            )

    def table(self) -> Table:
        """A table with one row per kept block, or per size of blocks if there are many."""
        rows: list[tuple[str, str, str]] = []
        kept = list(zip(self.blocks, self.heads, self.channels, strict=True))
        if len(kept) <= MAX_ROWS:
            for block, heads, channels in kept:
                rows.append((str(block), f"{len(heads)}: {_ranges(heads)}", f"{len(channels):,}"))
        else:
            alike: dict[tuple[int, int], list[int]] = {}
            for block, heads, channels in kept:
                alike.setdefault((len(heads), len(channels)), []).append(block)
            for (heads, channels), blocks in alike.items():
                rows.append((_ranges(blocks), f"{heads}", f"{channels:,}"))
        table = make_table(
            f"plan: {len(self.blocks)} blocks kept",
            Column("block kept"),
            Column("query heads kept", "right", folds=True),
            Column("channels kept", "right", folds=True),
        )
        for row in rows:
            table.add_row(*row)
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` is the inverse."""
        return {
            "blocks": list(self.blocks),
            "heads": [list(kept) for kept in self.heads],
            "channels": [list(kept) for kept in self.channels],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StructuredPlan:
        """The inverse of `to_dict`."""
        return cls(**values)


def check_dense_blocks(config: ModelConfig) -> None:
    """Check that the blocks of a model contain no factorised or masked matrices.

    Raises:
        ValueError: a matrix of a block is compressed already.
    """
    for name, _ in config.compressed_layers:  # pyright: ignore[reportGeneralTypeIssues]
        if name.startswith("blocks."):
            raise ValueError(
                f"{name} is compressed already, but structured pruning requires dense matrices; "
                "prune first and compress afterwards, or convert the model to a dense one"
            )


def _check_ascending(name: str, indices: Indices) -> None:
    if not indices:
        raise ValueError(f"{name} keeps nothing; keep at least one")
    if list(indices) != sorted(set(indices)) or indices[0] < 0:
        raise ValueError(
            f"{name}={indices} must be different whole numbers >= 0 in ascending order"
        )


def _check_below(name: str, indices: Indices, size: int) -> None:
    if indices[-1] >= size:
        raise ValueError(
            f"{name} keeps {indices[-1]}, but the model has the indices 0 to {size - 1}; make a "
            "plan for this model"
        )


def _ranges(indices: Sequence[int]) -> str:
    """Write ascending indices as ranges, e.g. `0-3, 6`."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], index]
        else:
            runs.append([index])
    return ", ".join("-".join(map(str, run)) for run in runs)
