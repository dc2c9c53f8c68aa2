"""Layer maps: rules that pair each layer of the student with a layer of the teacher.

Layers are counted by application: a block that is applied twice counts as two layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mobilellm.ranges import Range, check_fields

Pairs = tuple[tuple[int, int], ...]
"""Pairs (layer of the student, layer of the teacher), counted from 0."""


class LayerMap(Protocol):
    """A rule that pairs the layers of two models of any depths."""

    def pairs(self, num_student: int, num_teacher: int) -> Pairs:
        """The pairs, in the student's order.

        Raises:
            ValueError: the rule does not fit these depths.
        """
        ...


@dataclass(frozen=True)
class Uniform:
    """Student layer i of n learns from teacher layer round((i + 1) m / n) − 1 of m.

    The last layer learns from the last. A student that is deeper than its teacher learns from some
    of the teacher's layers several times.
    """

    def pairs(self, num_student: int, num_teacher: int) -> Pairs:
        """One pair per layer of the student."""
        return tuple(
            (i, max(((i + 1) * num_teacher * 2 + num_student) // (2 * num_student) - 1, 0))
            for i in range(num_student)
        )


UNIFORM = Uniform()
"""The default map."""


@dataclass(frozen=True, kw_only=True)
class Last:
    """The last `k` layers of the student learn from the last `k` of the teacher, in order."""

    k: int = 1

    def __post_init__(self) -> None:
        """Check the number."""
        check_fields(self, k=Range(at_least=1))

    def pairs(self, num_student: int, num_teacher: int) -> Pairs:
        """`k` pairs.

        Raises:
            ValueError: a model has fewer than `k` layers.
        """
        least = min(num_student, num_teacher)
        if self.k > least:
            raise ValueError(
                f"layers.k={self.k}, but the student has {num_student} layers and the teacher "
                f"{num_teacher}; use k={least} or less"
            )
        return tuple((num_student - i, num_teacher - i) for i in range(self.k, 0, -1))


@dataclass(frozen=True, kw_only=True)
class Explicit:
    """The given pairs [[layer of the student, layer of the teacher], …], counted from 0."""

    layers: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        """Check the pairs."""
        for pair in self.layers:
            if not isinstance(pair, Sequence) or [type(layer) for layer in pair] != [int, int]:
                raise ValueError(
                    f"layers: {pair} must be a pair [layer of the student, layer of the teacher]"
                )
        if not self.layers:
            raise ValueError("layers is empty; give at least one pair")

    def pairs(self, num_student: int, num_teacher: int) -> Pairs:
        """The pairs as given.

        Raises:
            ValueError: a layer is out of range.
        """
        for student, teacher in self.layers:
            for name, layer, num_layers in (
                ("student", student, num_student), ("teacher", teacher, num_teacher)
            ):  # fmt: skip
                if not 0 <= layer < num_layers:
                    raise ValueError(
                        f"layers names layer {layer} of the {name}, which has {num_layers} layers "
                        f"counted by application; use 0 to {num_layers - 1}"
                    )
        return tuple((student, teacher) for student, teacher in self.layers)
