"""Which application of a student's blocks learns from which of the teacher's.

Layers are counted by application: a block that runs twice is two layers, with two states to learn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mobilellm.ranges import Range, check_fields

Pairs = tuple[tuple[int, int], ...]
"""(student's application, teacher's application), counted from 0."""


class LayerMap(Protocol):
    """A rule that gives the pairs for any two depths."""

    def pairs(self, num_student: int, num_teacher: int) -> Pairs:
        """The pairs, in the student's order.

        Raises:
            ValueError: depths that the rule does not fit.
        """
        ...


@dataclass(frozen=True)
class Uniform:
    """Student layer i of n learns from teacher layer round((i + 1) m / n) − 1 of m, the last from
    the last. Students deeper than their teacher learn from some of its layers several times.
    """

    def pairs(self, num_student: int, num_teacher: int) -> Pairs:
        """All student layers."""
        return tuple(
            (i, max(((i + 1) * num_teacher * 2 + num_student) // (2 * num_student) - 1, 0))
            for i in range(num_student)
        )


UNIFORM = Uniform()
"""The default map."""


@dataclass(frozen=True, kw_only=True)
class Last:
    """The last `k` layers of one learn from the last `k` of the other, in order."""

    k: int = 1

    def __post_init__(self) -> None:
        """Check the number."""
        check_fields(self, k=Range(at_least=1))

    def pairs(self, num_student: int, num_teacher: int) -> Pairs:
        """As many pairs.

        Raises:
            ValueError: fewer layers than that.
        """
        least = min(num_student, num_teacher)
        if self.k > least:
            raise ValueError(
                f"k={self.k} last layers are mapped, but the student has {num_student} layers and "
                f"the teacher {num_teacher}; use k={least} or less"
            )
        return tuple((num_student - i, num_teacher - i) for i in range(self.k, 0, -1))


@dataclass(frozen=True, kw_only=True)
class Explicit:
    """Pairs one by one: [[student's, teacher's], …], counted from 0."""

    layers: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        """Check that these are pairs of whole numbers."""
        for pair in self.layers:
            if not isinstance(pair, Sequence) or [type(layer) for layer in pair] != [int, int]:
                raise ValueError(f"{pair} is no pair [student's layer, teacher's layer]")
        if not self.layers:
            raise ValueError("layers is empty; give at least one pair")

    def pairs(self, num_student: int, num_teacher: int) -> Pairs:
        """The pairs as given.

        Raises:
            ValueError: a layer out of range.
        """
        for student, teacher in self.layers:
            for name, layer, there in (
                ("student", student, num_student), ("teacher", teacher, num_teacher)
            ):  # fmt: skip
                if not 0 <= layer < there:
                    raise ValueError(
                        f"the layer map names the {name}'s layer {layer}, which has {there} layers "
                        f"counted by application, from 0 to {there - 1}"
                    )
        return tuple((student, teacher) for student, teacher in self.layers)
