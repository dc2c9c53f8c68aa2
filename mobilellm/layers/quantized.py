"""Quantized matrices: packed weights of 4 or 8 bits, with scales of groups of weights.

The weights are buffers, which training does not change. Gradients pass through the layer to its
input.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mobilellm.layers.activation_rounding import round_tokens, token_codes
from mobilellm.layers.bias import check_bias
from mobilellm.layers.number_format import NumberFormat
from mobilellm.layers.quantization_grid import Grid
from mobilellm.layers.quantized_storage import describe, restore, store, stored_size
from mobilellm.layers.shape import LayerCost, LayerShape, Size


@dataclass(frozen=True, kw_only=True)
class QuantizedShape(LayerShape):
    """A matrix whose weights are stored in a number format of few bits.

    Raises:
        ValueError: the number format is not possible.
    """

    kind = "quantized"

    quantized: NumberFormat
    """The number format, or its fields as a dictionary."""

    def __post_init__(self) -> None:
        """Convert a dictionary to a `NumberFormat`."""
        if isinstance(self.quantized, Mapping):
            object.__setattr__(self, "quantized", NumberFormat(**self.quantized))

    def check(self, size: Size) -> None:
        """Check that the number format is possible for this size.

        Raises:
            ValueError: it is not.
        """
        self.quantized.check(size)

    def cost(self, size: Size) -> LayerCost:
        """As many parameters and operations as a dense matrix, in fewer bytes; none is trained."""
        entries = size[0] * size[1]
        return LayerCost(
            parameters=entries,
            matrix_parameters=0,
            flops=2 * entries,
            row_parameters=size[1],
            packed_bytes=self.quantized.packed_bytes(size),
        )

    def empty(self, size: Size, *, bias: bool = False) -> "QuantizedLinear":
        """A `QuantizedLinear` with uninitialised tensors."""
        return QuantizedLinear.empty(self.quantized, size, bias=bias)

    def empty_embedding(self, size: Size) -> "QuantizedEmbedding":
        """A `QuantizedEmbedding` with uninitialised tensors."""
        return QuantizedEmbedding.empty(self.quantized, size)  # pyright: ignore[reportReturnType]

    @classmethod
    def describe_tensors(cls, tensors: Mapping[str, Tensor]) -> str | None:
        """The types and sizes of the tensors."""
        if "codes" not in tensors:
            return None
        return f"quantized ({describe(tensors)})"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `parse_layer_shape` is the inverse."""
        return {"quantized": self.quantized.to_dict()}

    def short_text(self) -> str:
        """A form such as `int4 g32`."""
        return self.quantized.short_text()

    def __str__(self) -> str:
        """A form such as `int4 in groups of 32`."""
        return str(self.quantized)


class QuantizedLinear(nn.Module):
    """A linear layer that stores codes and scales, and computes its weights when it is applied.

    The weights are computed in every forward pass and again in the backward pass, so that they take
    no memory between layers; inside `dense_copies` they are kept. If weights and inputs have 8 bits
    and each output has one scale, integers are multiplied on a CPU, unless a gradient is needed.
    """

    codes: Tensor

    def __init__(
        self,
        number_format: NumberFormat,
        tensors: Mapping[str, Tensor],
        bias: Tensor | None = None,
    ) -> None:
        """Store the tensors.

        Args:
            number_format: of the weights.
            tensors: those of `NumberFormat.layout`, by name.
            bias: (out,) or None.

        Raises:
            ValueError: a tensor is missing or unknown, has another size or type, or the size is not
                possible in this number format.
        """
        super().__init__()
        self.number_format = number_format
        self.out_features, self.in_features = stored_size(tensors, number_format)
        check_bias(bias, self.out_features)
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self.bias = None if bias is None else nn.Parameter(bias)
        self._dense: Tensor | None = None

    @classmethod
    def empty(cls, number_format: NumberFormat, size: Size, *, bias: bool = False) -> Self:
        """A layer with uninitialised tensors; raises ValueError as `NumberFormat.check` does."""
        number_format.check(size)
        layout = number_format.layout(size).items()
        tensors = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in layout}
        return cls(number_format, tensors, torch.empty(size[0]) if bias else None)

    @classmethod
    def nearest(
        cls,
        weight: Float[Tensor, "out in"],
        number_format: NumberFormat,
        bias: Tensor | None = None,
    ) -> Self:
        """A layer with the weights of `weight` (out, in), each rounded to the nearest value.

        Raises:
            ValueError: the size is not possible in this number format.
        """
        number_format.check((weight.shape[0], weight.shape[1]))
        weight = in_float32(weight.detach())
        grid = Grid.fit(weight, number_format)
        return cls.of_codes(grid.codes_of(weight), grid, bias)

    @classmethod
    def of_codes(
        cls, codes: Float[Tensor, "out in"], grid: Grid, bias: Tensor | None = None
    ) -> Self:
        """A layer with the given codes (out, in), whole numbers as `Grid.codes_of` returns them."""
        return cls(grid.number_format, store(codes, grid), bias)

    @property
    def shape(self) -> QuantizedShape:
        """The number format."""
        return QuantizedShape(quantized=self.number_format)

    def reset_buffers_(self) -> None:
        """Set the scales to zero, or nearly so, as there are no trained weights."""
        for buffer in self.buffers(recurse=False):
            buffer.zero_()

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move the layer without converting its tensors, whose types are part of the format."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, tensor in before.items():
            moved = self._buffers[name]
            if tensor is not None and moved is not None and moved.dtype != tensor.dtype:
                self._buffers[name] = tensor.to(moved.device)
        return self

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """Apply the layer: (..., in) -> (..., out)."""
        return self._multiply(x)

    def materialize(self) -> Float[Tensor, "out in"]:
        """The dense weight (out, in), float32."""
        return self._rows(slice(None)) if self._dense is None else self._dense

    def weight_as(self, dtype: torch.dtype) -> Float[Tensor, "out in"]:
        """The dense weight (out, in), rounded to a type."""
        return self.materialize().to(dtype)

    def _rows(self, index: Tensor | slice) -> Tensor:
        """Rows of the dense weight, float32."""
        tensors = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        return restore(tensors, self.number_format, index)

    def _multiply(self, x: Tensor) -> Tensor:
        if self._multiplies_integers(x):
            y: Any = self._integer_product(x)
        else:
            if self.number_format.activation_bits is not None:
                x = round_tokens(x)
            needs_gradient = torch.is_grad_enabled() and x.requires_grad
            if needs_gradient and not torch.compiler.is_compiling():
                y = _FrozenProduct.apply(x, self)
            else:
                y = F.linear(x, self.weight_as(x.dtype))
        return y if self.bias is None else y + self.bias

    def _multiplies_integers(self, x: Tensor) -> bool:
        """Whether the product is one of integers, for which torch has an operation on CPUs."""
        needs_gradient = torch.is_grad_enabled() and x.requires_grad
        is_usual = x.is_cpu and x.numel() > 0 and not torch.is_autocast_enabled("cpu")
        is_possible = is_usual and not needs_gradient and not torch.compiler.is_compiling()
        return is_possible and self.number_format.multiplies_integers

    def _integer_product(self, x: Tensor) -> Tensor:
        codes, scales = token_codes(x)
        sums = torch._int_mm(codes.flatten(0, -2), self.codes.t())  # pyright: ignore
        sums = sums.unflatten(0, x.shape[:-1])
        own: Any = self._buffers["scales"]
        return (sums.to(scales.dtype) * scales * own.to(scales.dtype).T).to(x.dtype)

    def extra_repr(self) -> str:
        """Sizes and number format, for `print(model)`."""
        return f"{self.in_features}, {self.out_features}, {self.number_format}"


class QuantizedEmbedding(QuantizedLinear):
    """A quantized token embedding (vocab, hidden); also usable as a tied head."""

    def forward(self, input_ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch hidden"]:
        """Look up rows of the table: token ids (...) -> (..., hidden), float32."""
        if self._dense is not None:
            return F.embedding(input_ids, self._dense)
        return self._rows(input_ids.flatten()).unflatten(0, input_ids.shape)

    def unembed(self, hidden: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch vocab"]:
        """Multiply by every row of the table: (..., hidden) -> logits (..., vocab)."""
        return self._multiply(hidden)


class _FrozenProduct(torch.autograd.Function):
    """x Wᵀ; the backward pass computes W again, so that neither x nor W is kept for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        return F.linear(x, layer.weight_as(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (gradient @ ctx.layer.weight_as(gradient.dtype)).to(ctx.dtype), None


@contextmanager
def dense_copies(model: nn.Module) -> Iterator[None]:
    """Keep the dense weights of quantized layers inside a `with` block.

    Decoding applies each layer to one token at a time, and computing the weights takes many times
    as long as the product with one token. The copies take as much memory as a dense model. Layers
    that multiply integers need none.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, QuantizedLinear)
        and module._dense is None
        and not module.number_format.multiplies_integers
    ]
    try:
        for layer in layers:
            layer._dense = layer.materialize()
        yield
    finally:
        for layer in layers:
            layer._dense = None


def in_float32(weight: Tensor) -> Tensor:
    """The weight in float32, or in float64 if it is."""
    return weight if weight.dtype == torch.float64 else weight.float()
