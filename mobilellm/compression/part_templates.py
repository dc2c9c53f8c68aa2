"""Templates of parts, whose number of terms may be determined by the budget of each matrix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm.layers import Size
from mobilellm.layers.factorized import FactorizedShape
from mobilellm.layers.part_shape import PartShape, low_rank_shape, part_with_right, rank_for
from mobilellm.ranges import Range, check_fields


@dataclass(frozen=True, kw_only=True)
class PartTemplate:
    """Template of one part of a sum: Kronecker products with given right factors, or low rank.

    Raises:
        ValueError: `right` is not a pair of positive sizes, or num_terms is below 1.
    """

    right: Size | None = None
    """Rows and columns of the right factors; None: low rank."""
    num_terms: int | None = None
    """Number of terms, or the rank; None: as many as the budget allows."""
    transpose_for_wide: bool = True
    """Whether the right factors are transposed for a matrix with more columns than rows, so that
    one template suits projections to more and to fewer dimensions."""

    def __post_init__(self) -> None:
        """Convert lists to tuples and check the values."""
        size = Range(at_least=1, cap=2**24)
        check_fields(self, right=size, num_terms=size)
        if self.right is not None:
            object.__setattr__(self, "right", tuple(self.right))

    def part(self, size: Size, num_terms: int, *, pivoted: bool = False) -> PartShape:
        """The shape of this part for a matrix with the given size and number of terms.

        Args:
            size: rows and columns of the matrix.
            num_terms: of the part.
            pivoted: whether a low-rank part is pivoted.

        Raises:
            ValueError: the right factors do not divide the matrix.
        """
        if self.right is None:
            return low_rank_shape(*size, num_terms, pivoted=pivoted)
        right = self.right
        if self.transpose_for_wide and size[1] > size[0]:
            right = (right[1], right[0])
        return part_with_right(size, right, num_terms)


def parse_parts(parts: Sequence[PartTemplate | Mapping[str, Any]]) -> tuple[PartTemplate, ...]:
    """Create part templates from a configuration.

    Raises:
        ValueError: a field is unknown, there is no part, or num_terms is open in several parts.
    """
    try:
        parsed = tuple(p if isinstance(p, PartTemplate) else PartTemplate(**p) for p in parts)
    except TypeError as error:
        raise ValueError(
            f"parts: {error}; a part has right, num_terms, transpose_for_wide"
        ) from error
    if not parsed:
        raise ValueError("parts is empty; give at least one, e.g. {right: [1, 2], num_terms: 1}")
    if sum(part.num_terms is None for part in parsed) > 1:
        raise ValueError(
            "several parts have num_terms=null; give num_terms for all parts but one, for which "
            "the budget determines it"
        )
    return parsed


def shape_from_parts(
    parts: Sequence[PartTemplate],
    size: Size,
    parameters: int,
    name: str,
    *,
    pivoted: bool = False,
) -> FactorizedShape:
    """The shape of a matrix (rows, columns) with at most `parameters` parameters.

    Args:
        parts: templates of the parts.
        size: rows and columns of the matrix.
        parameters: largest number of entries of all factors.
        name: of the matrix, for messages.
        pivoted: whether low-rank parts are pivoted.

    Raises:
        ValueError: the factors of a part do not divide the matrix, or the other parts leave too few
            parameters for one term of the part with num_terms=None.
    """
    fixed = [p.part(size, p.num_terms, pivoted=pivoted) for p in parts if p.num_terms is not None]
    left = parameters - sum(part.parameters for part in fixed)
    made = []
    for template in parts:
        if template.num_terms is not None:
            made.append(template.part(size, template.num_terms, pivoted=pivoted))
            continue
        one = template.part(size, 1, pivoted=pivoted)
        terms = left // one.parameters
        if one.is_low_rank:
            terms = rank_for(left, *size, pivoted=pivoted)
        terms = min(terms, one.max_terms)
        if terms < 1:
            raise ValueError(
                f"the budget of {parameters:,} parameters for {name} ({size[0]}x{size[1]}) leaves "
                f"{left:,}, but one term needs {one.parameters:,}; raise the budget, or use larger "
                "right factors"
            )
        made.append(template.part(size, terms, pivoted=pivoted))
    return FactorizedShape(parts=tuple(made))
