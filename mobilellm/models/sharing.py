"""Layer sharing: schemes that determine which stored block runs at each layer.

The model stores every block once. A sharing scheme is a pure function that maps
(num_blocks, block_repeats) to a tuple of block indices, one per layer. The length of the tuple is
the depth of the model. Blocks may occur unequally often, but every block must occur at least once.
All counts, caches and exports are derived from this order. A scheme must be defined for every
num_blocks >= 1, and more blocks must not give fewer layers.

A pruned model stores the name of the scheme and not the order. Structured pruning of whole blocks
therefore requires that removing any block from the order for n blocks gives the order for n - 1
blocks. The schemes below have this property. For a scheme without it, `keep_blocks` raises an
error, but channels and heads can be pruned.

Source: Liu et al. 2024, MobileLLM, arXiv:2402.14905, section 2.4 and table 2.
"""

from collections.abc import Callable, Mapping, Sequence


def immediate(num_blocks: int, block_repeats: int) -> tuple[int, ...]:
    """Apply each block several times in a row: 0 0 1 1 2 2."""
    return tuple(block for block in range(num_blocks) for _ in range(block_repeats))


def repeat_all(num_blocks: int, block_repeats: int) -> tuple[int, ...]:
    """Apply the whole stack of blocks several times: 0 1 2 0 1 2."""
    return tuple(range(num_blocks)) * block_repeats


def reverse(num_blocks: int, block_repeats: int) -> tuple[int, ...]:
    """Apply the stack of blocks alternately forwards and backwards: 0 1 2 2 1 0."""
    forward = tuple(range(num_blocks))
    passes = (forward if repeat % 2 == 0 else forward[::-1] for repeat in range(block_repeats))
    return tuple(block for one_pass in passes for block in one_pass)


# Schemes by name. Checkpoints store the name, so a name must not change.
SHARING_SCHEMES: Mapping[str, Callable[[int, int], tuple[int, ...]]] = {
    "immediate": immediate,
    "repeat_all": repeat_all,
    "reverse": reverse,
}


def order_of_layers(scheme: str, num_blocks: int, block_repeats: int) -> tuple[int, ...]:
    """Compute and check the order of a scheme: one block index per layer.

    Raises:
        ValueError: the scheme returned an invalid block index, or an order that lacks a block.
    """
    order = tuple(SHARING_SCHEMES[scheme](num_blocks, block_repeats))
    given = f"layer_sharing={scheme!r} with num_blocks={num_blocks} and block_repeats="
    given += f"{block_repeats} gives the order {' '.join(map(str, order[:20]))}"
    given += " …" if len(order) > 20 else ""
    unused = set(range(num_blocks)) - set(order)
    if set(order) - set(range(num_blocks)):
        raise ValueError(
            f"{given}; the scheme's function must return block indices from 0 to {num_blocks - 1}"
        )
    if unused:
        raise ValueError(
            f"{given}, which lacks block {min(unused)}; the scheme's function must use every block"
        )
    return order


def order_without(order: tuple[int, ...], kept: Sequence[int]) -> tuple[int, ...]:
    """The order after all blocks but `kept` are removed, with blocks numbered anew.

    Args:
        order: block indices, one per layer.
        kept: indices of the kept blocks, ascending.
    """
    places = {block: place for place, block in enumerate(kept)}
    return tuple(places[block] for block in order if block in places)


def is_closed_under_removal(
    scheme: str, num_blocks: int, block_repeats: int, fewest_blocks: int
) -> bool:
    """Whether removing any blocks gives an order of the same scheme.

    Args:
        scheme: a key of `SHARING_SCHEMES`.
        num_blocks: number of blocks before the removal.
        block_repeats: argument of the scheme.
        fewest_blocks: smallest number of remaining blocks to check.
    """
    for size in range(num_blocks, fewest_blocks, -1):
        longer = order_of_layers(scheme, size, block_repeats)
        shorter = order_of_layers(scheme, size - 1, block_repeats)
        for gone in range(size):
            if order_without(longer, [b for b in range(size) if b != gone]) != shorter:
                return False
    return True
