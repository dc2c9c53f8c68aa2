"""Layer sharing: which stored block runs at each layer.

The model stores every block once; a sharing scheme is a pure function from
(num_blocks, block_repeats) to the tuple of block indices, one entry per application.

Source: Liu et al. 2024, MobileLLM, arXiv:2402.14905, section 2.4 and table 2.
"""

from collections.abc import Callable, Mapping


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
