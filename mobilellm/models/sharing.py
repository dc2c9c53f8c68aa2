"""Layer sharing: which stored block runs at each layer.

The model stores every block once; a sharing scheme is a pure function from
(num_blocks, block_repeats) to the tuple of block indices, one entry per application. The order may
be of any length, and blocks may run unequally often, but every block has to run: its length is the
model's depth, and all counts, caches and exports follow from it. It has to give an order for every
num_blocks from 1 on, and more blocks must not give fewer layers.

Structured pruning of whole blocks asks for more: the scheme's order for fewer blocks has to be the
longer order without the block that goes, since the pruned model names the scheme and not the order.
The three schemes here have this property. Where one lacks it, `keep_blocks` is refused, while
channels and heads can be pruned.

Source: Liu et al. 2024, MobileLLM, arXiv:2402.14905, section 2.4 and table 2.
"""

from collections.abc import Callable, Mapping, Sequence


def immediate(num_blocks: int, block_repeats: int) -> tuple[int, ...]:
    """Each block several times in a row: 0 0 1 1 2 2."""
    return tuple(block for block in range(num_blocks) for _ in range(block_repeats))


def repeat_all(num_blocks: int, block_repeats: int) -> tuple[int, ...]:
    """The whole stack again and again: 0 1 2 0 1 2."""
    return tuple(range(num_blocks)) * block_repeats


def reverse(num_blocks: int, block_repeats: int) -> tuple[int, ...]:
    """The stack forward and backward in turn: 0 1 2 2 1 0."""
    forward = tuple(range(num_blocks))
    passes = (forward if turn % 2 == 0 else forward[::-1] for turn in range(block_repeats))
    return tuple(block for one_pass in passes for block in one_pass)


# The one table of names: a scheme's name is saved inside checkpoints.
SHARING_SCHEMES: Mapping[str, Callable[[int, int], tuple[int, ...]]] = {
    "immediate": immediate,
    "repeat_all": repeat_all,
    "reverse": reverse,
}


def order_of_layers(scheme: str, num_blocks: int, block_repeats: int) -> tuple[int, ...]:
    """The checked order of a scheme: one block index for each layer that runs.

    Raises:
        ValueError: the scheme's function gives something else than indices of the stored blocks,
            or an order in which a block never runs.
    """
    order = tuple(SHARING_SCHEMES[scheme](num_blocks, block_repeats))
    given = f"layer_sharing={scheme!r} with num_blocks={num_blocks} and block_repeats="
    given += f"{block_repeats} gives the order {' '.join(map(str, order[:20]))}"
    given += " …" if len(order) > 20 else ""
    unused = set(range(num_blocks)) - set(order)
    if set(order) - set(range(num_blocks)):
        raise ValueError(
            f"{given}; the scheme's function must give whole numbers from 0 to {num_blocks - 1}"
        )
    if unused:
        raise ValueError(
            f"{given}, in which block {min(unused)} never runs; the scheme's function must use "
            "every block"
        )
    return order


def order_without(order: tuple[int, ...], kept: Sequence[int]) -> tuple[int, ...]:
    """The order in which the kept blocks run when the others are gone, in their new numbers.

    Args:
        order: block indices, one for each layer.
        kept: indices of the blocks that stay, ascending.
    """
    places = {block: place for place, block in enumerate(kept)}
    return tuple(places[block] for block in order if block in places)


def is_closed_under_removal(
    scheme: str, num_blocks: int, block_repeats: int, fewest_blocks: int
) -> bool:
    """Whether any blocks may go, down to `fewest_blocks`, and the scheme still gives the order."""
    for size in range(num_blocks, fewest_blocks, -1):
        longer = order_of_layers(scheme, size, block_repeats)
        shorter = order_of_layers(scheme, size - 1, block_repeats)
        for gone in range(size):
            if order_without(longer, [b for b in range(size) if b != gone]) != shorter:
                return False
    return True
