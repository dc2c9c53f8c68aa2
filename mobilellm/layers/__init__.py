"""The matrices that a model can be built of: dense, sums of Kronecker products, masked.

Each kind has one file with its shape (plain data, in `ModelConfig.compressed_layers`), its
`nn.Module`, its counts and how it is written to disk. A new kind is a new file and an entry in
`KINDS`.
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
}
"""Module and class of each kind, by the key of its dictionary in config.json that only it has.

The files import torch, and so a kind is imported when a configuration has it."""


def parse_layer_shape(values: LayerShape | Mapping[str, Any]) -> LayerShape:
    """The shape that `to_dict` wrote; a shape is returned as it is.

    Raises:
        ValueError: no kind has these keys, or the kind refuses the values.
    """
    if isinstance(values, LayerShape):
        return values
    for key in KINDS:
        if key in values:
            try:
                return _load(key)(**values)
            except TypeError as error:
                raise ValueError(f"{dict(values)} is not a compressed layer: {error}") from error
    raise ValueError(f"{dict(values)} is not a compressed layer; give {', or '.join(KINDS)}")


def describe_tensors(tensors: Mapping[str, "Tensor"]) -> str | None:
    """How the matrix is stored whose module has these tensors, by name; None: in no known way.

    Shapes of the same kind can be told apart by the description.
    """
    for key in KINDS:
        description = _load(key).describe_tensors(tensors)
        if description is not None:
            return description
    return DENSE.describe_tensors(tensors)


def materialize(module: "nn.Module") -> "Tensor":
    """The dense weight (out, in) of a layer of any kind, as it is multiplied."""
    # `nn.Linear` is the one layer that is not ours.
    return module.materialize() if hasattr(module, "materialize") else module.weight  # pyright: ignore


def _load(key: str) -> type[LayerShape]:
    module, name = KINDS[key]
    return getattr(import_module(module), name)
