"""Kinds of weight matrices: dense, sums of Kronecker products, masked, quantized, adapted.

Each kind has its own file, with its shape (plain data, stored in `ModelConfig.compressed_layers`),
its `nn.Module`, its parameter and FLOP counts, and its format on disk. To add a kind, add a file
and an entry in `KINDS`.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mobilellm.layers.dense import DENSE, DenseShape
from mobilellm.layers.shape import LayerCost, LayerShape, Size, short_summary, summarize

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "DENSE",
    "KINDS",
    "DenseShape",
    "LayerCost",
    "LayerShape",
    "Size",
    "describe_tensors",
    "materialize",
    "parse_layer_shape",
    "short_summary",
    "summarize",
]

KINDS: dict[str, tuple[str, str]] = {
    "parts": ("mobilellm.layers.factorized", "FactorizedShape"),
    "nonzero": ("mobilellm.layers.masked", "MaskedShape"),
    "quantized": ("mobilellm.layers.quantized", "QuantizedShape"),
    "fake_quantized": ("mobilellm.layers.fake_quantized", "FakeQuantizedShape"),
    "adapted": ("mobilellm.layers.adapted", "AdaptedShape"),
}
"""Module and class of each kind. The key is the field of `to_dict` that only this kind has.

The modules import torch, so each is imported only when a configuration contains its kind."""


def parse_layer_shape(values: LayerShape | Mapping[str, Any]) -> LayerShape:
    """Create a shape from the output of `to_dict`; a shape is returned unchanged.

    Raises:
        ValueError: no kind has these keys, or a value is invalid.
    """
    if isinstance(values, LayerShape):
        return values
    for key in KINDS:
        if key in values:
            try:
                return _load(key)(**values)
            except TypeError as error:
                raise ValueError(f"{dict(values)} is not a compressed layer: {error}") from error
    raise ValueError(
        f"{dict(values)} is not a compressed layer; give one of the keys {', '.join(KINDS)}"
    )


def describe_tensors(tensors: Mapping[str, "Tensor"]) -> str | None:
    """Describe how a matrix is stored, given the tensors of its module by name.

    Different shapes of one kind have different descriptions. None if no kind has these tensors.
    """
    for key in KINDS:
        description = _load(key).describe_tensors(tensors)
        if description is not None:
            return description
    return DENSE.describe_tensors(tensors)


def materialize(module: "nn.Module") -> "Tensor":
    """The dense weight (out, in) that a layer of any kind multiplies its input by."""
    # `nn.Linear` has no `materialize`.
    return module.materialize() if hasattr(module, "materialize") else module.weight  # pyright: ignore


def _load(key: str) -> type[LayerShape]:
    module, name = KINDS[key]
    return getattr(import_module(module), name)
