"""Matrices that are trained in floats and rounded in every forward pass.

Quantization-aware training: the layer computes what its quantized form will compute, and the
gradient passes to the float weights as if nothing were rounded.

Source: Jacob et al. 2018, arXiv:1712.05877; the formats of MobileLLM-Pro, arXiv:2511.06719.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mobilellm.layers.activation_rounding import round_tokens, straight_through
from mobilellm.layers.bias import check_bias
from mobilellm.layers.dense import DENSE
from mobilellm.layers.number_format import NumberFormat
from mobilellm.layers.quantization_grid import nearest_values
from mobilellm.layers.quantized import QuantizedEmbedding, QuantizedLinear, in_float32
from mobilellm.layers.shape import LayerCost, LayerShape, Size


@dataclass(frozen=True, kw_only=True)
class FakeQuantizedShape(LayerShape):
    """A float matrix that is rounded to a number format whenever it is applied.

    Raises:
        ValueError: the number format is not possible.
    """

    kind = "fake-quantized"

    fake_quantized: NumberFormat
    """The number format, or its fields as a dictionary."""

    def __post_init__(self) -> None:
        """Convert a dictionary to a `NumberFormat`."""
        if isinstance(self.fake_quantized, Mapping):
            object.__setattr__(self, "fake_quantized", NumberFormat(**self.fake_quantized))

    def check(self, size: Size) -> None:
        """Check that the number format is possible for this size.

        Raises:
            ValueError: it is not.
        """
        self.fake_quantized.check(size)

    def cost(self, size: Size) -> LayerCost:
        """As a dense matrix; the rounded weights are also kept for the backward pass."""
        return replace(DENSE.cost(size), materialized_values=size[0] * size[1])

    def empty(self, size: Size, *, bias: bool = False) -> "FakeQuantizedLinear":
        """A `FakeQuantizedLinear`."""
        empty_bias = torch.empty(size[0]) if bias else None
        return FakeQuantizedLinear(torch.empty(size), self.fake_quantized, empty_bias)

    def empty_embedding(self, size: Size) -> "FakeQuantizedEmbedding":
        """A `FakeQuantizedEmbedding`."""
        return FakeQuantizedEmbedding(torch.empty(size), self.fake_quantized)

    def saved_values(self, size: Size, *, has_own_input: bool) -> int:
        """The rounded input, of which every matrix has its own."""
        shares_input = self.fake_quantized.activation_bits is None or has_own_input
        return 0 if shares_input else size[1]

    @classmethod
    def describe_tensors(cls, tensors: Mapping[str, Tensor]) -> str | None:
        """None: the tensors are those of a dense matrix."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `parse_layer_shape` is the inverse."""
        return {"fake_quantized": self.fake_quantized.to_dict()}

    def short_text(self) -> str:
        """A form such as `floats as int4 g32`."""
        return f"floats as {self.fake_quantized.short_text()}"

    def __str__(self) -> str:
        """A form such as `floats, rounded to int4 in groups of 32`."""
        return f"floats, rounded to {self.fake_quantized}"


class FakeQuantizedLinear(nn.Module):
    """A linear layer with trained float weights, applied as they would be after quantization."""

    def __init__(
        self,
        weight: Float[Tensor, "out in"],
        number_format: NumberFormat,
        bias: Tensor | None = None,
    ) -> None:
        """Store the weight.

        Args:
            weight: (out, in).
            number_format: to which it is rounded.
            bias: (out,) or None.

        Raises:
            ValueError: the number format is not possible for this size, or the bias has another
                size.
        """
        super().__init__()
        self.out_features, self.in_features = weight.shape
        number_format.check((self.out_features, self.in_features))
        check_bias(bias, self.out_features)
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.number_format = number_format

    @property
    def shape(self) -> FakeQuantizedShape:
        """The number format to which the weight is rounded."""
        return FakeQuantizedShape(fake_quantized=self.number_format)

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """Apply the layer: (..., in) -> (..., out)."""
        if self.number_format.activation_bits is not None:
            x = round_tokens(x)
        return F.linear(x, self.materialize(), self.bias)

    def materialize(self) -> Float[Tensor, "out in"]:
        """The rounded weight (out, in); its gradient is that of the float weight."""
        weight = in_float32(self.weight.detach())
        rounded = nearest_values(weight, self.number_format)
        return straight_through(self.weight, rounded.to(self.weight.dtype))

    def quantized(self) -> QuantizedLinear:
        """The quantized layer that computes the same."""
        kind = QuantizedEmbedding if isinstance(self, FakeQuantizedEmbedding) else QuantizedLinear
        return kind.nearest(self.weight, self.number_format, self.bias)

    def extra_repr(self) -> str:
        """Sizes and number format, for `print(model)`."""
        return f"{self.in_features}, {self.out_features}, {self.shape}"


class FakeQuantizedEmbedding(FakeQuantizedLinear):
    """A token embedding (vocab, hidden) that is rounded; also usable as a tied head."""

    def forward(self, input_ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch hidden"]:
        """Look up rows of the table: token ids (...) -> (..., hidden)."""
        return F.embedding(input_ids, self.materialize())

    def unembed(self, hidden: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch vocab"]:
        """Multiply by every row of the table: (..., hidden) -> logits (..., vocab)."""
        return super().forward(hidden)
