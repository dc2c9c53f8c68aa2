"""Spending the rest of a budget after every matrix has a shape.

Ranks and numbers of terms are integers, so that every matrix leaves up to one term of its share
unused. The sum of these remainders is spent on additional terms.
"""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import replace

from mobilellm.layers.factorized import FactorizedShape


def one_term_more(shape: FactorizedShape, part: int) -> FactorizedShape | None:
    """`shape` with one more term in the given part.

    None if the part has its largest number of terms already, or if the result would be at least as
    large as the dense matrix.
    """
    old = shape.parts[part]
    if old.num_terms >= old.max_terms:
        return None
    parts = list(shape.parts)
    parts[part] = replace(old, num_terms=old.num_terms + 1)
    grown = replace(shape, parts=tuple(parts))
    rows, columns = shape.size
    return grown if grown.parameters < rows * columns else None


def spend(
    shapes: Mapping[str, FactorizedShape],
    shares: Mapping[str, float],
    left: float,
    cost: Callable[[str, FactorizedShape], float],
    grow: Callable[[str, FactorizedShape], FactorizedShape | None],
) -> dict[str, FactorizedShape]:
    """The shapes, with as many additional terms as the rest of the budget allows.

    The next term goes to the matrix with the lowest ratio of cost to intended cost, and of equal
    ratios to the first. A matrix whose next term exceeds the rest gets no more terms.

    Args:
        shapes: by name, in the model's order.
        shares: intended cost of each matrix, in the unit of `cost`.
        left: the rest of the budget, in the unit of `cost`.
        cost: gives the cost of a matrix in a shape.
        grow: gives the next larger shape of a matrix, or None if there is none.
    """
    grown = dict(shapes)
    places = {name: place for place, name in enumerate(shapes)}

    def used(name: str) -> tuple[float, int]:
        return cost(name, grown[name]) / max(shares[name], 1.0), places[name]

    waiting = [(*used(name), name) for name in shapes]
    heapq.heapify(waiting)
    while waiting:
        *_, name = heapq.heappop(waiting)
        larger = grow(name, grown[name])
        if larger is None:
            continue
        step = cost(name, larger) - cost(name, grown[name])
        if step <= left:
            left -= step
            grown[name] = larger
            heapq.heappush(waiting, (*used(name), name))
    return grown
