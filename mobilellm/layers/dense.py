"""Dense matrices, the default of `ModelConfig`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mobilellm.layers.shape import LayerCost, LayerShape, Size

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class DenseShape(LayerShape):
    """A matrix whose entries are all stored. It has no settings; use the instance `DENSE`."""

    kind = "dense"

    def check(self, size: Size) -> None:
        """Accept every size."""

    def cost(self, size: Size) -> LayerCost:
        """Rows x columns parameters, with two operations per parameter."""
        entries = size[0] * size[1]
        return LayerCost(
            parameters=entries,
            matrix_parameters=entries,
            flops=2 * entries,
            row_parameters=size[1],
        )

    def empty(self, size: Size, *, bias: bool = False) -> "nn.Linear":
        """An `nn.Linear`."""
        from torch import nn  # Counting the parameters of a dense model must not import torch.

        return nn.Linear(size[1], size[0], bias=bias)

    def empty_embedding(self, size: Size) -> "nn.Module":
        """A dense token embedding."""
        from mobilellm.layers.token_embedding import TokenEmbedding  # imports torch

        return TokenEmbedding(*size)

    def to_dict(self) -> dict[str, Any]:
        """An empty dictionary, because configurations do not list dense matrices."""
        return {}

    @classmethod
    def describe_tensors(cls, tensors: Mapping[str, "Tensor"]) -> str | None:
        """`dense` if the tensors include `weight`."""
        return "dense" if "weight" in tensors else None

    def __str__(self) -> str:
        """Return `dense`."""
        return "dense"


DENSE = DenseShape()
