"""Use of the rest of a budget after every matrix has a shape.

Ranks and numbers of terms are integers. Every matrix therefore leaves a part of its share unused,
which is less than the cost of one term. The sum of these remainders is spent on additional terms.
"""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import replace

from mobilellm.layers.factorized import FactorizedShape


def one_term_more(shape: FactorizedShape, part: int) -> FactorizedShape | None:
    """Add one term to a part of `shape`.

    None if the part has its largest number of terms, or if the result would be at least as large as
    the dense matrix.
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
    """Add terms to the shapes as long as the rest of the budget allows.

    The next term is added to the matrix with the lowest ratio of cost to intended cost; of several
    such matrices, to the first. A matrix whose next term exceeds the rest gets no more terms.

    Args:
        shapes: by name, in the model's order.
        shares: intended cost of each matrix, in the unit of `cost`.
        left: the rest of the budget, in the unit of `cost`.
        cost: returns the cost of a matrix in a shape.
        grow: returns the next larger shape of a matrix, or None if there is none.
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
