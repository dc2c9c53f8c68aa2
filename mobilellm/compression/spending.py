"""Spending what is left of a budget once every matrix has a shape.

Ranks and terms are whole numbers, so that shapes within equal shares leave some of each share
unspent, up to a whole term of every matrix. What is left of all together buys further terms.
"""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import replace

from mobilellm.layers.factorized import FactorizedShape


def one_term_more(shape: FactorizedShape, part: int) -> FactorizedShape | None:
    """`shape` with one more term in that part; None where it would be as large as the matrix."""
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
    """The shapes with as many further terms as what is left pays for.

    The next term goes to the matrix that is furthest below its own share, and of equal ones to
    the first; one whose next term is too dear is done.

    Args:
        shapes: by name, in the model's order.
        shares: what each matrix was meant to have, in the unit of `cost`.
        left: of the budget.
        cost: of a matrix in a shape.
        grow: the next larger shape of a matrix; None: there is none.
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
