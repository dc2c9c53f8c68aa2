"""What every kind of layer says about itself. No torch is needed to import this module."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from torch import Tensor, nn

Size = tuple[int, int]
"""Rows and columns (out, in) of a matrix."""


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What one matrix costs as it is stored."""

    parameters: int
    """Stored; masked weights are counted."""
    matrix_parameters: int
    """Of these, those in tensors of two dimensions, which Muon updates as matrices."""
    flops: int
    """Floating-point operations per input vector."""
    row_parameters: int
    """Parameters that are read to look up one row of a token embedding."""
    masked: int | None = None
    """Parameters that are masked to zero; None: this kind has no masks."""
    formed_values: int = 0
    """Values of the weight that each use computes and keeps for the backward pass."""

    @property
    def nonzero(self) -> int:
        """Parameters that are not masked to zero."""
        return self.parameters - (self.masked or 0)


class LayerShape(ABC):
    """How one matrix (out, in) is stored, as plain data: a frozen dataclass in a file of its own.

    To add a kind of layer, write a subclass with its `nn.Module` in a new file of this package and
    enter the file in `KINDS` of `mobilellm.layers`. The module has `shape` (the subclass),
    `materialize()` (the dense weight) and, if it has buffers, `reset_buffers_()`.
    """

    kind: ClassVar[str]
    """For messages and tables, e.g. `factorised`."""

    @abstractmethod
    def check(self, size: Size) -> None:
        """Refuse a matrix of a size that this shape does not describe.

        Raises:
            ValueError: says both sizes; begins where the matrix's name in a message ends.
        """

    @abstractmethod
    def cost(self, size: Size) -> LayerCost:
        """What a matrix of that size costs."""

    @abstractmethod
    def empty(self, size: Size, *, bias: bool = False) -> "nn.Module":
        """A linear layer x (..., in) -> (..., out), not filled."""

    @abstractmethod
    def empty_embedding(self, size: Size) -> "nn.Module":
        """A token embedding (vocab, hidden), not filled.

        Called with token ids (...) it gives their rows (..., hidden); `unembed` maps hidden states
        (..., hidden) to logits (..., vocab).
        """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON with the key under which `KINDS` has this kind."""

    @classmethod
    @abstractmethod
    def describe_tensors(cls, tensors: Mapping[str, "Tensor"]) -> str | None:
        """How the matrix is stored whose module has these tensors (by name); None: not so."""

    def parameter_std(self, name: str, std: float) -> float:
        """Standard deviation of initial values, for which the weight's entries have `std`.

        Args:
            name: of the parameter in the module.
            std: standard deviation that a dense weight would have.
        """
        return std

    def kept_values(self, size: Size, *, input_of_its_own: bool) -> int:
        """Values that training keeps per input vector for the backward pass, beyond a dense layer.

        Args:
            size: of the matrix.
            input_of_its_own: whether no other matrix reads the same input, so that a dense layer
                would keep it too.
        """
        return 0

    def pack(self, tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
        """The tensors of the module as they are written to disk."""
        return dict(tensors)

    def unpack(self, tensors: Mapping[str, "Tensor"], size: Size) -> dict[str, "Tensor"]:
        """The inverse of `pack`; what is not packed stays as it is.

        Raises:
            ValueError: damaged tensors; begins where the matrix's name in a message ends.
        """
        return dict(tensors)

    def low_rank_twin(self, size: Size) -> "LayerShape | None":
        """Low rank with at most as many parameters, for comparison; None: too few for rank 1.

        By default the shape itself: it has no such counterpart.
        """
        return self

    @classmethod
    def summarize(cls, shapes: Sequence[Self], sizes: Sequence[Size]) -> str:
        """Several matrices of this kind in one line of a table."""
        texts = list(dict.fromkeys(map(str, shapes)))
        return texts[0] if len(texts) == 1 else f"{len(texts)} shapes, e.g. {texts[0]}"

    def short_text(self) -> str:
        """One matrix in a narrow column."""
        return str(self)

    @classmethod
    def short_summary(cls, shapes: Sequence[Self]) -> str:
        """Several matrices of this kind in a narrow column."""
        texts = list(dict.fromkeys(shape.short_text() for shape in shapes))
        return texts[0] if len(texts) == 1 else f"{len(texts)} shapes"


def summarize(shapes: Sequence[LayerShape], sizes: Sequence[Size]) -> str:
    """`LayerShape.summarize` for shapes of any kinds."""
    return _kind_of_all(shapes).summarize(shapes, sizes)


def short_summary(shapes: Sequence[LayerShape]) -> str:
    """`LayerShape.short_summary` for shapes of any kinds."""
    return _kind_of_all(shapes).short_summary(shapes)


def _kind_of_all(shapes: Sequence[LayerShape]) -> type[LayerShape]:
    kinds = {type(shape) for shape in shapes}
    return kinds.pop() if len(kinds) == 1 else LayerShape
