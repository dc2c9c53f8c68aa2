"""Shapes that a supernet contains: smaller models of the family, in a documented order of units.

A sub-network consists of the leading slices of the supernet's weights:

- width: the first entries of the residual stream;
- feed-forward width: the first channels of each block;
- heads: the first key-value groups, and in each of them the first query heads;
- depth: the first and the last stored block, and blocks evenly spread between them.

It has the same vocabulary, width of heads, sharing scheme, tying and norms as the supernet. This
module does not import torch.

Source: Cai et al. 2020, Once-for-All, arXiv:1908.09791 (elastic depth and width).
"""

from collections.abc import Sequence
from dataclasses import fields, replace

from mobilellm.models.config import ModelConfig, PerBlock, one_or_each
from mobilellm.models.sharing import order_without

SIZES = (
    "num_blocks", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"
)  # fmt: skip


def kept_blocks(num_blocks: int, count: int) -> tuple[int, ...]:
    """The stored blocks of a sub-network with `count` of `num_blocks` blocks.

    Block i of the sub-network is block i × (num_blocks − 1) / (count − 1), rounded to the nearest,
    halves upwards. A single block is the first one.

    Args:
        num_blocks: blocks of the supernet.
        count: blocks of the sub-network, 1 to num_blocks.
    """
    if count == 1:
        return (0,)
    gaps = count - 1
    return tuple((2 * i * (num_blocks - 1) + gaps) // (2 * gaps) for i in range(count))


def shape_inside(
    supernet: ModelConfig,
    *,
    num_blocks: int | None = None,
    hidden_size: int | None = None,
    intermediate_size: PerBlock | None = None,
    num_attention_heads: PerBlock | None = None,
    num_key_value_heads: PerBlock | None = None,
) -> ModelConfig:
    """The configuration of a sub-network with the given sizes; the others are the supernet's.

    Args:
        supernet: configuration of the supernet.
        num_blocks: number of stored blocks.
        hidden_size: width of the residual stream.
        intermediate_size: width of the feed-forward layers, one value or one per kept block.
        num_attention_heads: number of query heads, likewise.
        num_key_value_heads: number of key-value heads, likewise; default: the supernet's number of
            query heads per key-value head is kept.

    Raises:
        ValueError: the supernet does not contain the shape; the message says why.
    """
    count = supernet.num_blocks if num_blocks is None else num_blocks
    if not isinstance(count, int) or not 1 <= count <= supernet.num_blocks:
        raise ValueError(
            f"num_blocks={count} is not contained in a model of {supernet.num_blocks} blocks; give "
            f"1 to {supernet.num_blocks}"
        )
    kept = [supernet.block_shapes[block] for block in kept_blocks(supernet.num_blocks, count)]
    if num_attention_heads is None:
        num_attention_heads = one_or_each([shape.num_attention_heads for shape in kept])
    if num_key_value_heads is None:
        sizes = [shape.num_attention_heads // shape.num_key_value_heads for shape in kept]
        num_key_value_heads = _groups(num_attention_heads, sizes)
    if intermediate_size is None:
        intermediate_size = one_or_each([shape.intermediate_size for shape in kept])
    shape = replace(
        supernet,
        num_blocks=count,
        hidden_size=supernet.hidden_size if hidden_size is None else hidden_size,
        intermediate_size=intermediate_size,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=num_key_value_heads,
    )
    check_contained(supernet, shape)
    return shape


def check_contained(supernet: ModelConfig, shape: ModelConfig) -> None:
    """Check that a supernet contains a shape.

    Raises:
        ValueError: it does not; the message names the field and the sizes that are contained.
    """
    if supernet.compressed_layers:
        name = next(iter(supernet.layer_shapes))
        raise ValueError(
            f"{name} is compressed, and slices are taken from dense matrices only; use the model "
            "before compression, and compress the sub-network"
        )
    for field in fields(ModelConfig):
        whole, own = getattr(supernet, field.name), getattr(shape, field.name)
        if field.name not in SIZES and whole != own:
            raise ValueError(
                f"{field.name}={own} differs from the supernet's {field.name}={whole}, and a "
                f"sub-network can only differ in {', '.join(SIZES)}; use {field.name}={whole}"
            )
    for name in ("num_blocks", "hidden_size"):
        whole, own = getattr(supernet, name), getattr(shape, name)
        if own > whole:
            raise ValueError(f"{name}={own} is larger than the supernet's; give at most {whole}")
    kept = kept_blocks(supernet.num_blocks, shape.num_blocks)
    for place, block in enumerate(kept):
        _check_block(supernet, shape, place, block)
    wanted = order_without(supernet.layer_order, kept)
    if shape.layer_order != wanted:
        raise ValueError(
            f"layer_sharing={shape.layer_sharing!r} runs {shape.num_blocks} blocks in another "
            f"order than the supernet runs its blocks {' '.join(map(str, kept))}; keep all "
            f"{supernet.num_blocks} blocks, or use another scheme"
        )


def _check_block(supernet: ModelConfig, shape: ModelConfig, place: int, block: int) -> None:
    """Check the sizes of one block of the sub-network, which is a block of the supernet."""
    own, whole = shape.block_shapes[place], supernet.block_shapes[block]
    where = "" if len(set(supernet.block_shapes)) == 1 else f" in block {block}"
    for name in ("intermediate_size", "num_key_value_heads"):
        if getattr(own, name) > getattr(whole, name):
            raise ValueError(
                f"{name}={getattr(own, name)} is larger than the supernet's{where}; give at most "
                f"{getattr(whole, name)}"
            )
    size = own.num_attention_heads // own.num_key_value_heads
    most = whole.num_attention_heads // whole.num_key_value_heads
    if size > most:
        raise ValueError(
            f"num_attention_heads={own.num_attention_heads} with "
            f"num_key_value_heads={own.num_key_value_heads} has {size} query heads per key-value "
            f"head, and the supernet{where} has {most}; give at most {most} times as many query "
            "heads as key-value heads"
        )


def _groups(heads: PerBlock, sizes: Sequence[int]) -> PerBlock:
    """Key-value heads for the given query heads, with the given numbers of query heads for each."""
    counts = [heads] * len(sizes) if isinstance(heads, int) else list(heads)
    for count, size in zip(counts, sizes, strict=False):
        if count % size:
            raise ValueError(
                f"num_attention_heads={count} is not a multiple of the supernet's {size} query "
                f"heads per key-value head; give a multiple, or num_key_value_heads as well"
            )
    return one_or_each([count // size for count, size in zip(counts, sizes, strict=False)])
