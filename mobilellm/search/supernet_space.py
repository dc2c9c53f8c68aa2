"""The shapes between which a supernet is trained: some sizes of each of its dimensions.

This module does not import torch.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any

from mobilellm.models.config import ModelConfig
from mobilellm.ranges import Range, check_fields
from mobilellm.search.supernet_shape import SIZES, shape_inside

if TYPE_CHECKING:
    import numpy as np

_SIZE = Range(at_least=1)


@dataclass(frozen=True, kw_only=True)
class SupernetSpace:
    """Sizes of sub-networks; every combination is a shape.

    A dimension that is not given has the supernet's size only.

    Raises:
        ValueError: a list is empty or not ascending, or num_attention_heads is missing beside
            num_key_value_heads.
    """

    num_blocks: Sequence[int] | None = None
    """Numbers of stored blocks."""
    hidden_size: Sequence[int] | None = None
    """Widths of the residual stream."""
    intermediate_size: Sequence[int] | None = None
    """Widths of the feed-forward layers, the same in all blocks."""
    num_attention_heads: Sequence[int] | None = None
    """Numbers of query heads, the same in all blocks."""
    num_key_value_heads: Sequence[int] | None = None
    """Numbers of key-value heads; not given: as many query heads for each as in the supernet."""

    def __post_init__(self) -> None:
        """Convert lists to tuples and check them."""
        check_fields(self, **dict.fromkeys(SIZES, _SIZE))
        for name in SIZES:
            sizes = getattr(self, name)
            if sizes is None:
                continue
            object.__setattr__(self, name, tuple(sizes))
            if not sizes or list(sizes) != sorted(set(sizes)):
                raise ValueError(
                    f"space.{name}={list(sizes)} must be different sizes in ascending order, e.g. "
                    "[2,4,8]; leave it out to keep the supernet's size"
                )
        if self.num_key_value_heads is not None and self.num_attention_heads is None:
            raise ValueError(
                "space.num_key_value_heads is given without space.num_attention_heads; give both, "
                "or num_attention_heads alone"
            )

    def check(self, supernet: ModelConfig) -> None:
        """Check that the supernet is the largest shape, and contains all others.

        Raises:
            ValueError: it is not, or does not; the message names the dimension and the size. Or the
                space has no other shape.
        """
        if self.num_shapes == 1:
            raise ValueError(
                "the space has one shape, the supernet itself; give several sizes for at least one "
                f"of {', '.join(f'space.{name}' for name in SIZES)}, e.g. "
                "distillation.space.num_blocks=[2,4,8]"
            )
        for name, sizes in self._given.items():
            own = getattr(supernet, name)
            if sizes[-1] != own:
                raise ValueError(
                    f"space.{name}={list(sizes)} must end with the size of the supernet itself, "
                    f"model.{name}={_plain(own)}, which is trained as the largest shape"
                )
        # Of the other dimensions, the largest sizes are enough, except that heads go in pairs.
        for name, sizes in self._given.items():
            if name in ("num_attention_heads", "num_key_value_heads"):
                continue
            for size in sizes:
                self._named_shape(supernet, {name: size})
        for heads in self.num_attention_heads or ():
            for groups in self.num_key_value_heads or (None,):
                self._named_shape(
                    supernet, {"num_attention_heads": heads, "num_key_value_heads": groups}
                )

    @property
    def num_shapes(self) -> int:
        """Number of shapes, the supernet itself included."""
        return math.prod(len(sizes) for sizes in self._given.values())

    def shapes(self, supernet: ModelConfig) -> Iterator[ModelConfig]:
        """All shapes, in the order of the sizes, the last dimension varying fastest."""
        for sizes in itertools.product(*self._given.values()):
            yield _shape(supernet, tuple(zip(self._given, sizes, strict=True)))

    def smallest(self, supernet: ModelConfig) -> ModelConfig:
        """The shape with the smallest size of every dimension."""
        return _shape(supernet, tuple((name, sizes[0]) for name, sizes in self._given.items()))

    def draw(self, supernet: ModelConfig, generator: "np.random.Generator") -> ModelConfig:
        """A random shape other than the supernet itself; all of them are equally likely."""
        while True:
            drawn = {n: int(s[generator.integers(len(s))]) for n, s in self._given.items()}
            if any(size != self._given[name][-1] for name, size in drawn.items()):
                return _shape(supernet, tuple(drawn.items()))

    def contains(self, shape: ModelConfig, supernet: ModelConfig) -> bool:
        """Whether a model's shape is one between which the supernet is trained."""
        sizes = {name: getattr(shape, name) for name in self._given}
        if any(size not in self._given[name] for name, size in sizes.items()):
            return False
        return _shape(supernet, tuple(sizes.items())) == shape

    def to_dict(self) -> dict[str, list[int]]:
        """The given sizes as plain data for JSON."""
        return {name: list(sizes) for name, sizes in self._given.items()}

    @property
    def _given(self) -> dict[str, tuple[int, ...]]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: sizes for name, sizes in values.items() if sizes is not None}

    def _named_shape(self, supernet: ModelConfig, sizes: dict[str, Any]) -> None:
        try:
            shape_inside(supernet, **sizes)
        except ValueError as error:
            given = ", ".join(f"{k}={v}" for k, v in sizes.items() if v is not None)
            raise ValueError(f"space: {given}: {error}") from error


@cache
def _shape(supernet: ModelConfig, sizes: tuple[tuple[str, int], ...]) -> ModelConfig:
    """The sub-network with these sizes, checked once, because every training step draws some."""
    return shape_inside(supernet, **dict(sizes))  # pyright: ignore[reportArgumentType]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
