"""The interface of all kinds of layers. This module does not import torch."""

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
    """Parameters and operations of one matrix, depending on how it is stored."""

    parameters: int
    """Number of stored parameters, including masked weights."""
    matrix_parameters: int
    """Number of stored parameters in two-dimensional tensors, which Muon updates as matrices."""
    flops: int
    """Floating-point operations per input vector."""
    row_parameters: int
    """Number of parameters that are read to look up one row of a token embedding."""
    masked: int | None = None
    """Number of parameters that are masked to zero; None if this kind has no mask."""
    materialized_values: int = 0
    """Number of entries of the dense weight that each application computes and saves for the
    backward pass."""
    packed_bytes: int | None = None
    """Bytes in which the matrix is stored, whatever the data type of the model, if its weights are
    packed codes. These are not trained. None: each parameter has the data type of the model."""
    unpacked: int = 0
    """Number of parameters in floats beside the packed codes, if there are any."""
    frozen: int = 0
    """Number of parameters in floats that training does not change."""

    @property
    def packed(self) -> int:
        """Number of parameters that are stored as packed codes."""
        return 0 if self.packed_bytes is None else self.parameters - self.unpacked

    @property
    def trained(self) -> int:
        """Number of parameters that training changes."""
        return self.parameters - self.packed - self.frozen

    def stored_bits(self, bits: int) -> int:
        """Bits in which the matrix is stored, if a parameter that is not packed has `bits`."""
        return bits * (self.parameters - self.packed) + 8 * (self.packed_bytes or 0)

    @property
    def nonzero(self) -> int:
        """Number of parameters that are not masked to zero."""
        return self.parameters - (self.masked or 0)


class LayerShape(ABC):
    """Plain data that says how one matrix (out, in) is stored.

    To add a kind of layer, write a frozen dataclass that inherits from this class, and its
    `nn.Module`, in a new file of this package, and add the class to `KINDS` in `mobilellm.layers`.
    The module needs a property `shape` (an instance of the new class), a method `materialize()`
    that returns the dense weight, and, if it has buffers, a method `reset_buffers_()`.
    """

    kind: ClassVar[str]
    """Name of the kind in messages and tables, e.g. `factorised`."""
    trains_alone: ClassVar[bool] = False
    """Whether a model with a matrix of this kind keeps all matrices of other kinds, and its norms,
    as they are in training."""

    @property
    def draws_random_numbers(self) -> bool:
        """Whether the module draws random numbers in training."""
        return False

    @abstractmethod
    def check(self, size: Size) -> None:
        """Check that this shape is possible for a matrix of the given size.

        Raises:
            ValueError: it is not. The message contains both sizes and starts with a verb, because
                callers put the name of the matrix before it.
        """

    @abstractmethod
    def cost(self, size: Size) -> LayerCost:
        """Parameters and operations of a matrix of the given size."""

    @abstractmethod
    def empty(self, size: Size, *, bias: bool = False) -> "nn.Module":
        """A linear layer (..., in) -> (..., out) with uninitialised parameters."""

    @abstractmethod
    def empty_embedding(self, size: Size) -> "nn.Module":
        """A token embedding (vocab, hidden) with uninitialised parameters.

        Its `forward` maps token ids (...) to embeddings (..., hidden), and its `unembed` maps
        hidden states (..., hidden) to logits (..., vocab).
        """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, including the key of this kind in `KINDS`."""

    @classmethod
    @abstractmethod
    def describe_tensors(cls, tensors: Mapping[str, "Tensor"]) -> str | None:
        """Describe the storage of a module with these tensors; None if it is of another kind."""

    def parameter_std(self, name: str, std: float) -> float:
        """Standard deviation with which to initialise one parameter of the module.

        Args:
            name: name of the parameter in the module.
            std: standard deviation that the entries of the dense weight should have.
        """
        return std

    def rate_exponent(self, name: str, *, is_table: bool) -> float:
        """Power of the width by which the learning rate of a parameter falls as models grow.

        For Adam, if the initial values follow `parameter_std`: a dense matrix inside a block sums
        over its inputs, so that equal changes of all entries add up, and the rate falls with the
        first power of their number (muP). The rows of a token table are not summed over.

        Args:
            name: of the parameter in the module.
            is_table: whether the matrix is a token embedding or an output head.
        """
        return 0.0 if is_table else 1.0

    def saved_values(self, size: Size, *, has_own_input: bool) -> int:
        """Number of values per input vector that are saved for backward in addition to a dense
        layer.

        Args:
            size: rows and columns of the matrix.
            has_own_input: whether no other matrix reads the same input. A dense layer would then
                save the input as well.
        """
        return 0

    def saved_flags(self, size: Size) -> int:
        """Number of truth values, of a byte each, per input vector that are saved for backward.

        Args:
            size: rows and columns of the matrix.
        """
        return 0

    def file_bits(self, size: Size, bits: int) -> int:
        """Bits in the file of a model, if the data type of its weights has `bits`.

        They are those of the tensors that `pack` returns.
        """
        return self.cost(size).stored_bits(bits)

    def pack(self, tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
        """Convert the tensors of the module to the form in which they are written to disk."""
        return dict(tensors)

    def unpack(self, tensors: Mapping[str, "Tensor"], size: Size) -> dict[str, "Tensor"]:
        """The inverse of `pack`; tensors that are not packed are returned unchanged.

        Raises:
            ValueError: the tensors are damaged. The message starts with a verb, because callers put
                the name of the matrix before it.
        """
        return dict(tensors)

    def low_rank_twin(self, size: Size) -> "LayerShape | None":
        """A low-rank shape with at most as many parameters, to compare with.

        The default is the shape itself, for kinds without a low-rank counterpart. None if the
        parameters do not allow rank 1.
        """
        return self

    @classmethod
    def summarize(cls, shapes: Sequence[Self], sizes: Sequence[Size]) -> str:
        """Summarise several matrices of this kind in one line of a table."""
        texts = list(dict.fromkeys(map(str, shapes)))
        return texts[0] if len(texts) == 1 else f"{len(texts)} shapes, e.g. {texts[0]}"

    def short_text(self) -> str:
        """Description of one matrix for a narrow column."""
        return str(self)

    @classmethod
    def short_summary(cls, shapes: Sequence[Self]) -> str:
        """Summarise several matrices of this kind for a narrow column."""
        texts = list(dict.fromkeys(shape.short_text() for shape in shapes))
        return texts[0] if len(texts) == 1 else f"{len(texts)} shapes"


def summarize(shapes: Sequence[LayerShape], sizes: Sequence[Size]) -> str:
    """Apply `LayerShape.summarize` to shapes of one or several kinds."""
    return _kind_of_all(shapes).summarize(shapes, sizes)


def short_summary(shapes: Sequence[LayerShape]) -> str:
    """Apply `LayerShape.short_summary` to shapes of one or several kinds."""
    return _kind_of_all(shapes).short_summary(shapes)


def _kind_of_all(shapes: Sequence[LayerShape]) -> type[LayerShape]:
    kinds = {type(shape) for shape in shapes}
    return kinds.pop() if len(kinds) == 1 else LayerShape
