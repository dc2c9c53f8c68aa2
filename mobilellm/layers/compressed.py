"""Layers that stand in for `nn.Linear` and for token tables: sums of parts, and masked weights."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilellm.layers.kronecker_linear import KroneckerLinear
from mobilellm.layers.shapes import FactorizedShape, LayerShape, MaskedShape, Shape


class FactorizedLinear(nn.Module):
    """x -> Σ part(x) + bias, with inputs and outputs reordered where permutations are stored.

    With K the sum of the parts, the weight is W[i, j] = K[row_order[i], columns⁻¹[j]]: the layer
    computes K(x[column_order])[row_order].
    """

    row_order: Tensor | None
    column_order: Tensor | None

    def __init__(
        self,
        parts: Iterable[KroneckerLinear],
        bias: Tensor | None = None,
        *,
        row_order: Tensor | None = None,
        column_order: Tensor | None = None,
    ) -> None:
        """Take over the parts.

        Args:
            parts: without biases, all (out, in).
            bias: (out,) or None.
            row_order: (out,), the row of the sum that gives each output; None: as they come.
            column_order: (in,), the input that each column of the sum takes; None: as they come.

        Raises:
            ValueError: no part, parts of different shapes or with biases of their own; a bias or
                an order of another size, an order that is no permutation.
        """
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.bias = None if bias is None else nn.Parameter(bias)
        for name, order in (("row_order", row_order), ("column_order", column_order)):
            self.register_buffer(name, None if order is None else order.to(torch.int32))
        self.out_features, self.in_features = self.shape.shape
        for index, part in enumerate(self.parts):
            if part.bias is not None:
                raise ValueError(f"part {index} has a bias; give it to the layer")
        _check_bias(bias, self.out_features)
        _check_order("row_order", self.row_order, self.out_features)
        _check_order("column_order", self.column_order, self.in_features)

    @classmethod
    def empty(cls, shape: FactorizedShape, *, bias: bool = False) -> "FactorizedLinear":
        """A layer of the given shape, not filled; permutations keep the order."""
        rows, columns = shape.shape
        return cls(
            [KroneckerLinear.empty(part) for part in shape.parts],
            torch.empty(rows) if bias else None,
            row_order=torch.arange(rows) if shape.row_permutation else None,
            column_order=torch.arange(columns) if shape.column_permutation else None,
        )

    @property
    def shape(self) -> FactorizedShape:
        """Shapes of the parts, and whether there are permutations."""
        return FactorizedShape(
            parts=tuple(part.shape for part in self.parts),  # pyright: ignore[reportArgumentType]
            row_permutation=self.row_order is not None,
            column_permutation=self.column_order is not None,
        )

    def reset_buffers_(self) -> None:
        """Permutations that keep the order: what a model without trained weights has."""
        for order in (self.row_order, self.column_order):
            if order is not None:
                order.copy_(torch.arange(order.shape[0], device=order.device))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if self.column_order is not None:
            x = x.index_select(-1, self.column_order)
        y = self.parts[0](x)
        for part in self.parts[1:]:
            y = y + part(x)
        if self.row_order is not None:
            y = y.index_select(-1, self.row_order)
        return y if self.bias is None else y + self.bias

    def materialize(self) -> Tensor:
        """The dense weight (out, in)."""
        weight = torch.stack([part.materialize() for part in self.parts]).sum(0)  # pyright: ignore
        if self.row_order is not None:
            weight = weight[self.row_order]
        if self.column_order is not None:
            weight = weight[:, self.column_order.argsort()]
        return weight


class FactorizedEmbedding(FactorizedLinear):
    """A token table (vocab, hidden) as a sum of parts, used from both ends: counted once.

    Source: Edalati et al. 2022, arXiv:2110.08152, where the table is (v × d/f) ⊗ (1 × f).
    """

    def forward(self, input_ids: Tensor) -> Tensor:
        """Rows of the table: token ids (...) -> (..., hidden)."""
        if self.row_order is not None:
            input_ids = self.row_order[input_ids]
        x = self.parts[0].rows(input_ids)  # pyright: ignore[reportCallIssue]
        for part in self.parts[1:]:
            x = x + part.rows(input_ids)  # pyright: ignore[reportCallIssue]
        return x if self.column_order is None else x.index_select(-1, self.column_order.argsort())

    def unembed(self, hidden: Tensor) -> Tensor:
        """Product with every row: (..., hidden) -> logits (..., vocab)."""
        return super().forward(hidden)


class KroneckerEmbedding(FactorizedEmbedding):
    """A token table of one shape of terms: Σ leftᵢ ⊗ rightᵢ."""

    def __init__(self, left: Tensor, right: Tensor) -> None:
        """Take over the factors: left (num_terms, m1, n1), right (num_terms, m2, n2)."""
        super().__init__([KroneckerLinear(left, right)])


class MaskedLinear(nn.Module):
    """A linear layer of which masked weights are zero and stay zero in training."""

    mask: Tensor

    def __init__(self, weight: Tensor, mask: Tensor, bias: Tensor | None = None) -> None:
        """Take over the weight.

        Args:
            weight: (out, in); what is masked is set to zero.
            mask: bool (out, in), True = kept.
            bias: (out,) or None.

        Raises:
            ValueError: a mask of another shape or type, a bias of another size.
        """
        super().__init__()
        if mask.shape != weight.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"mask is {mask.dtype} {tuple(mask.shape)}; give bool {tuple(weight.shape)}"
            )
        _check_bias(bias, weight.shape[0])
        self.weight = nn.Parameter(weight if weight.is_meta else weight.masked_fill(~mask, 0.0))
        self.bias = None if bias is None else nn.Parameter(bias)
        self.register_buffer("mask", mask)
        self.out_features, self.in_features = weight.shape

    @classmethod
    def empty(cls, size: Shape, *, bias: bool = False) -> "MaskedLinear":
        """A layer of the given size, not filled, nothing masked."""
        mask = torch.ones(size, dtype=torch.bool)
        return cls(torch.empty(size), mask, torch.empty(size[0]) if bias else None)

    @property
    def shape(self) -> MaskedShape:
        """How many weights are kept."""
        return MaskedShape(nonzero=int(self.mask.sum()))  # pyright: ignore[reportCallIssue]

    def reset_buffers_(self) -> None:
        """Nothing masked."""
        self.mask.fill_(True)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return F.linear(x, self.materialize(), self.bias)

    def materialize(self) -> Tensor:
        """The weight (out, in) with its zeros."""
        return self.weight * self.mask

    def extra_repr(self) -> str:
        """Sizes, for `print(model)`."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class MaskedEmbedding(MaskedLinear):
    """A token table (vocab, hidden) with masked entries, used from both ends."""

    def forward(self, input_ids: Tensor) -> Tensor:
        """Rows of the table: token ids (...) -> (..., hidden)."""
        return F.embedding(input_ids, self.materialize())

    def unembed(self, hidden: Tensor) -> Tensor:
        """Product with every row: (..., hidden) -> logits (..., vocab)."""
        return super().forward(hidden)


CompressedLayer = FactorizedLinear | MaskedLinear


def empty_linear(size: Shape, shape: LayerShape | None, *, bias: bool = False) -> nn.Module:
    """The layer (out, in) that `shape` describes, not filled; None: `nn.Linear`."""
    if shape is None:
        return nn.Linear(size[1], size[0], bias=bias)
    if isinstance(shape, MaskedShape):
        return MaskedLinear.empty(size, bias=bias)
    return FactorizedLinear.empty(shape, bias=bias)


def _check_bias(bias: Tensor | None, size: int) -> None:
    if bias is not None and tuple(bias.shape) != (size,):
        raise ValueError(f"bias has shape {tuple(bias.shape)}; give ({size},) or None")


def _check_order(name: str, order: Tensor | None, size: int) -> None:
    """On the meta device, where models are built, an order has a size but no entries yet."""
    if order is None:
        return
    if tuple(order.shape) != (size,) or not (
        order.is_meta or sorted(order.tolist()) == list(range(size))
    ):
        raise ValueError(
            f"{name} has shape {tuple(order.shape)} and is no permutation; "
            f"give each of 0 to {size - 1} once"
        )
