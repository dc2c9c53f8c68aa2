"""Dense matrices: what `ModelConfig` stores if it says nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mobilellm.layers.shape import LayerCost, LayerShape, Size

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class DenseShape(LayerShape):
    """All entries of the matrix are stored. `DENSE` is the one instance that is needed."""

    kind = "dense"

    def check(self, size: Size) -> None:
        """Every size will do."""

    def cost(self, size: Size) -> LayerCost:
        """Rows x columns parameters, two operations each."""
        entries = size[0] * size[1]
        return LayerCost(
            parameters=entries,
            matrix_parameters=entries,
            flops=2 * entries,
            row_parameters=size[1],
        )

    def empty(self, size: Size, *, bias: bool = False) -> "nn.Linear":
        """`nn.Linear`, not filled."""
        from torch import nn  # counting the parameters of a dense model needs no torch

        return nn.Linear(size[1], size[0], bias=bias)

    def empty_embedding(self, size: Size) -> "nn.Module":
        """The dense token embedding, not filled."""
        from mobilellm.layers.token_embedding import TokenEmbedding  # imports torch

        return TokenEmbedding(*size)

    def to_dict(self) -> dict[str, Any]:
        """Nothing: a configuration does not list dense matrices."""
        return {}

    @classmethod
    def describe_tensors(cls, tensors: Mapping[str, "Tensor"]) -> str | None:
        """`dense` if there is a weight."""
        return "dense" if "weight" in tensors else None

    def __str__(self) -> str:
        """`dense`."""
        return "dense"


DENSE = DenseShape()
