"""Factorised matrices: sums of Kronecker products, low-rank products, or both.

W ≈ Σ leftᵢ ⊗ rightᵢ. Consecutive terms whose factors have the same sizes form a part.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mobilellm.layers.bias import check_bias
from mobilellm.layers.kronecker import KroneckerLinear
from mobilellm.layers.part_shape import PartShape, low_rank_shape, rank_for
from mobilellm.layers.pivoted import PivotedLinear, check_order
from mobilellm.layers.shape import LayerCost, LayerShape, Size


@dataclass(frozen=True, kw_only=True)
class FactorizedShape(LayerShape):
    """A sum of parts that all have the size of the matrix, with or without stored permutations.

    Raises:
        ValueError: there is no part, or the parts have different sizes.
    """

    kind = "factorised"

    parts: tuple[PartShape, ...]
    row_permutation: bool = False
    """Whether the outputs are reordered by a stored permutation."""
    column_permutation: bool = False
    """Whether the inputs are reordered by a stored permutation."""

    def __post_init__(self) -> None:
        """Convert dictionaries to `PartShape` and check the sizes."""
        parts = tuple(
            part if isinstance(part, PartShape) else PartShape(**part) for part in self.parts
        )
        object.__setattr__(self, "parts", parts)
        if not parts:
            raise ValueError("a factorised layer needs at least one part, but parts is empty")
        if len({part.size for part in parts}) > 1:
            sizes = ", ".join(f"{m}x{n}" for m, n in (part.size for part in parts))
            raise ValueError(f"the parts have the sizes {sizes}; give parts of the same size")

    @property
    def size(self) -> Size:
        """Rows and columns of the matrix."""
        return self.parts[0].size

    @property
    def parameters(self) -> int:
        """Number of entries of all factors. The entries of permutations are not parameters."""
        return sum(part.parameters for part in self.parts)

    @property
    def indices(self) -> int:
        """Number of entries of the stored permutations and orders, which have 32 bits each."""
        rows, columns = self.size
        own = self.row_permutation * rows + self.column_permutation * columns
        return own + sum(part.indices for part in self.parts)

    @property
    def flops(self) -> int:
        """Floating-point operations per input vector."""
        return sum(part.flops for part in self.parts)

    def check(self, size: Size) -> None:
        """Check that the matrix has the size of the parts.

        Raises:
            ValueError: the matrix has another size.
        """
        if self.size != tuple(size):
            raise ValueError(
                f"describes a weight of {self.size[0]}x{self.size[1]}, but the model's is "
                f"{size[0]}x{size[1]}; give factors whose products are its rows and columns"
            )

    def cost(self, size: Size) -> LayerCost:
        """Parameters and operations; factors that are not pivoted have three dimensions."""
        return LayerCost(
            parameters=self.parameters,
            matrix_parameters=sum(part.parameters for part in self.parts if part.pivoted),
            flops=self.flops,
            row_parameters=sum(p.num_terms * (p.left[1] + p.right[1]) for p in self.parts),
        )

    def empty(self, size: Size, *, bias: bool = False) -> "FactorizedLinear":
        """A `FactorizedLinear` whose permutations are the identity."""
        return FactorizedLinear.empty(self, bias=bias)

    def empty_embedding(self, size: Size) -> "FactorizedEmbedding":
        """A `FactorizedEmbedding` whose permutations are the identity."""
        return FactorizedEmbedding.empty(self)  # pyright: ignore[reportReturnType]

    def parameter_std(self, name: str, std: float) -> float:
        """Standard deviation of the factors for which the entries of their sum have `std`."""
        _, part, side = name.split(".")
        return self.parts[int(part)].parameter_std(side, std / len(self.parts) ** 0.5)

    def rate_exponent(self, name: str, *, is_table: bool) -> float:
        """As for the matrix, divided between the factors (`PartShape.rate_exponent`)."""
        _, part, side = name.split(".")
        return self.parts[int(part)].rate_exponent(side, is_table=is_table)

    def saved_values(self, size: Size, *, has_own_input: bool) -> int:
        """Values between the two products of each part, and copies of the input.

        Each part that applies its left factors first saves a transposed copy of the input. The
        other parts share the input itself, or one permuted copy of it.
        """
        right_first = [part.right_first for part in self.parts]
        inputs = right_first.count(False) + any(right_first)
        uses_input_itself = any(right_first) and not self.column_permutation
        inputs -= has_own_input or uses_input_itself
        return sum(part.inner_size for part in self.parts) + inputs * size[1]

    def file_bits(self, size: Size, bits: int) -> int:
        """The factors, and 32 bits per index of a stored permutation."""
        return bits * self.parameters + 32 * self.indices

    @classmethod
    def describe_tensors(cls, tensors: Mapping[str, Tensor]) -> str | None:
        """Number of parts, shapes of the first part's factors, and names of the permutations."""
        shapes = [
            tuple(tensors[key].shape)
            for key in sorted(tensors)
            if key.startswith("parts.0.") and not key.endswith("row_order")
        ]
        if not shapes:
            return None
        parts = len({key.split(".")[1] for key in tensors if key.startswith("parts.")})
        permutations = [order for order in ("row_order", "column_order") if order in tensors]
        number = "1 part" if parts == 1 else f"{parts} parts"
        factors = " and ".join(map(str, shapes))
        text = f"factorised in {number} (factors of the first: {factors})"
        return ", ".join([text, *permutations])

    def low_rank_twin(self, size: Size) -> "FactorizedShape | None":
        """The low-rank shape with at most as many parameters; None if they do not allow rank 1."""
        rank = rank_for(self.parameters, *self.size)
        return FactorizedShape(parts=(low_rank_shape(*self.size, rank),)) if rank else None

    def short_text(self) -> str:
        """A short form such as `rank 23 + 2 x (43x8)⊗(4x8), permuted`."""
        permuted = ", permuted" if self.row_permutation or self.column_permutation else ""
        return " + ".join(part.short_text() for part in self.parts) + permuted

    @classmethod
    def short_summary(cls, shapes: Sequence[Self]) -> str:
        """The shape if all are equal, a range of ranks, or the number of different shapes."""
        parts = [shape.parts for shape in shapes]
        summary = super().short_summary(shapes)
        if summary.endswith(" shapes") and all(len(p) == 1 and p[0].is_low_rank for p in parts):
            ranks = [own[0].num_terms for own in parts]
            pivoted = "pivoted " if all(own[0].pivoted for own in parts) else ""
            return f"{pivoted}rank {min(ranks)}-{max(ranks)}"
        return summary

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `parse_layer_shape` is the inverse."""
        values: dict[str, Any] = {"parts": [part.to_dict() for part in self.parts]}
        for name in ("row_permutation", "column_permutation"):
            if getattr(self, name):
                values[name] = True
        return values

    def __str__(self) -> str:
        """The sum, e.g. `23 x (172x1)⊗(1x64) + 2 x (43x8)⊗(4x8)`."""
        return " + ".join(part.text() for part in self.parts)


class FactorizedLinear(nn.Module):
    """Linear layer Σ part(x) + bias, with optional stored permutations of inputs and outputs.

    The layer computes (K x[column_order])[row_order], where K is the sum of the parts. Its weight
    is therefore W[i, column_order[j]] = K[row_order[i], j].
    """

    row_order: Tensor | None
    column_order: Tensor | None

    def __init__(
        self,
        parts: Iterable[KroneckerLinear | PivotedLinear],
        bias: Float[Tensor, "..."] | None = None,
        *,
        row_order: Int[Tensor, "..."] | None = None,
        column_order: Int[Tensor, "..."] | None = None,
    ) -> None:
        """Store the parts, the bias and the permutations.

        Args:
            parts: layers (out, in) without bias.
            bias: (out,) or None.
            row_order: (out,), for each output the row of the sum that computes it; None: identity.
            column_order: (in,), for each column of the sum the input that it multiplies; None:
                identity.

        Raises:
            ValueError: there is no part, parts have different sizes or a bias, the bias of the
                layer has another size, or an order is not a permutation.
        """
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.bias = None if bias is None else nn.Parameter(bias)
        for name, order in (("row_order", row_order), ("column_order", column_order)):
            self.register_buffer(name, None if order is None else order.to(torch.int32))
        self.out_features, self.in_features = self.shape.size
        for index, part in enumerate(self.parts):
            if part.bias is not None:
                raise ValueError(
                    f"part {index} has a bias; give the bias to the whole layer instead"
                )
        check_bias(bias, self.out_features)
        check_order("row_order", self.row_order, self.out_features)
        check_order("column_order", self.column_order, self.in_features)

    @classmethod
    def empty(cls, shape: FactorizedShape, *, bias: bool = False) -> "FactorizedLinear":
        """A layer with uninitialised parameters, whose permutations are the identity."""
        rows, columns = shape.size
        return cls(
            [(PivotedLinear if p.pivoted else KroneckerLinear).empty(p) for p in shape.parts],
            torch.empty(rows) if bias else None,
            row_order=torch.arange(rows) if shape.row_permutation else None,
            column_order=torch.arange(columns) if shape.column_permutation else None,
        )

    @property
    def shape(self) -> FactorizedShape:
        """Shapes of the parts, and which permutations are stored."""
        return FactorizedShape(
            parts=tuple(part.shape for part in self.parts),  # pyright: ignore[reportArgumentType]
            row_permutation=self.row_order is not None,
            column_permutation=self.column_order is not None,
        )

    def reset_buffers_(self) -> None:
        """Set the permutations to the identity, as in a model without trained weights."""
        for order in (self.row_order, self.column_order):
            if order is not None:
                order.copy_(torch.arange(order.shape[0], device=order.device))

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """Apply the layer: (..., in) -> (..., out)."""
        if self.column_order is not None:
            x = x.index_select(-1, self.column_order)
        y = self.parts[0](x)
        for part in self.parts[1:]:
            y = y + part(x)
        if self.row_order is not None:
            y = y.index_select(-1, self.row_order)
        return y if self.bias is None else y + self.bias

    def materialize(self) -> Float[Tensor, "out in"]:
        """The dense weight (out, in)."""
        weight = torch.stack([part.materialize() for part in self.parts]).sum(0)  # pyright: ignore
        if self.row_order is not None:
            weight = weight[self.row_order]
        if self.column_order is not None:
            weight = weight[:, self.column_order.argsort()]
        return weight


class FactorizedEmbedding(FactorizedLinear):
    """A token embedding (vocab, hidden) stored as a sum of parts.

    The same parameters serve the look-up and, if the head is tied, the output projection.

    Source: Edalati et al. 2022, arXiv:2110.08152, where the table is (v × d/f) ⊗ (1 × f).
    """

    def forward(self, input_ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch hidden"]:
        """Look up rows of the table: token ids (...) -> (..., hidden)."""
        if self.row_order is not None:
            input_ids = self.row_order[input_ids]
        x = self.parts[0].rows(input_ids)  # pyright: ignore[reportCallIssue]
        for part in self.parts[1:]:
            x = x + part.rows(input_ids)  # pyright: ignore[reportCallIssue]
        return x if self.column_order is None else x.index_select(-1, self.column_order.argsort())

    def unembed(self, hidden: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch vocab"]:
        """Multiply by every row of the table: (..., hidden) -> logits (..., vocab)."""
        return super().forward(hidden)
