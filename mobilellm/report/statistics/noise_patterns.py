"""Patterns of noise over shapes, for which the error of the verdicts is bounded.

The noise of the shapes is unknown, may differ between them, and may depend on the seed together.
The largest statistic exceeds a limit most often under extreme patterns: one shape that is much
noisier than all others, or a seed that moves two shapes in opposite directions.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mobilellm.report.statistics.block_design import BlockDesign, Floats

EXTREME = 1000.0
MOST_KINDS = 3
"""Kinds of shapes, by the runs they lack, of which an example is the noisy one."""


def noise_patterns(design: BlockDesign) -> Iterator[Floats]:
    """Yield loadings (shapes, sources): a shape's noise is a sum of independent sources."""
    number = design.num_shapes
    equal = np.eye(number)
    yield equal
    examples = _examples(design)
    for shape in examples:
        for ratio in (3.0, 10.0, EXTREME):
            yield np.diag(np.where(np.arange(number) == shape, ratio, 1.0))
    for first, second in _example_pairs(design, examples):
        for ratio in (5.0, EXTREME):
            yield np.hstack([equal, ratio * (equal[:, [first]] - equal[:, [second]])])
    ranks = _ranks(design)
    yield np.diag(2.0 ** -np.minimum(ranks, 20))
    yield _noisy_half(ranks)
    yield np.diag(np.where(ranks < 2, 5.0, 1.0))
    yield np.hstack([equal, 3 * np.linspace(-1, 1, number)[ranks][:, None]])


def mild_patterns(design: BlockDesign) -> Iterator[Floats]:
    """Yield the patterns that have the largest limits if there are many seeds."""
    yield np.eye(design.num_shapes)
    yield _noisy_half(_ranks(design))


def _noisy_half(ranks: NDArray[np.int_]) -> Floats:
    return np.diag(np.where(ranks < (len(ranks) + 1) // 2, EXTREME, 1.0))


def _ranks(design: BlockDesign) -> NDArray[np.int_]:
    """Return the place of each shape, those with the fewest runs first."""
    examples = _examples(design)
    order = [*examples, *(each for each in range(design.num_shapes) if each not in examples)]
    return np.argsort(order)


def _examples(design: BlockDesign) -> list[int]:
    """Return one shape of each kind: those with the fewest runs, and a baseline, first."""
    uses = np.bincount(np.array(design.pairs).ravel(), minlength=design.num_shapes)
    kinds: dict[tuple[bytes, int], int] = {}
    for shape in range(design.num_shapes):
        kinds.setdefault((design.runs[:, shape].tobytes(), int(uses[shape])), shape)
    found = [shape for shape in kinds.values() if uses[shape]]
    found.sort(key=lambda shape: (design.runs[:, shape].sum(), -uses[shape]))
    most_used = max(found, key=lambda shape: uses[shape])
    return list(dict.fromkeys([*found[: MOST_KINDS - 1], most_used, *found]))[:MOST_KINDS]


def _example_pairs(design: BlockDesign, examples: list[int]) -> list[tuple[int, int]]:
    """Return a pair of each two kinds."""
    kind = {shape: design.runs[:, shape].tobytes() for shape in range(design.num_shapes)}
    wanted = [kind[shape] for shape in examples]
    found: dict[tuple[bytes, bytes], tuple[int, int]] = {}
    for first, second in design.pairs:
        key = (min(kind[first], kind[second]), max(kind[first], kind[second]))
        if set(key) <= set(wanted):
            found.setdefault(key, (first, second))
    keys = dict.fromkeys(
        (min(a, b), max(a, b)) for a, b in itertools.combinations_with_replacement(wanted, 2)
    )
    return [found[key] for key in keys if key in found] or [design.pairs[0]]
