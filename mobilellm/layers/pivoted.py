"""Low-rank matrices stored as some of their rows, which make all the others.

A matrix (m, n) of rank r has r rows that span all rows. These pivots, and the coefficients of the
other rows, are r (m + n - r) numbers, r² fewer than two factors have.

Source: Zhao et al. 2025, PIFA, arXiv:2501.19090.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mobilellm.layers.part_shape import PartShape, low_rank_shape


class PivotedLinear(nn.Module):
    """Linear layer without bias whose outputs are those of some rows, and combinations of them.

    The layer computes z = pivots x, appends coefficients z, and puts the outputs into their order.
    """

    row_order: Tensor
    bias = None

    def __init__(
        self,
        pivots: Float[Tensor, "..."],
        coefficients: Float[Tensor, "..."],
        row_order: Int[Tensor, "..."],
    ) -> None:
        """Store the rows, the coefficients and the order.

        Args:
            pivots: (rank, in), the rows of the weight that are stored.
            coefficients: (out - rank, rank), of each other row.
            row_order: (out,), for each output its place among the pivots followed by the others.

        Raises:
            ValueError: the tensors have other shapes, or the order is not a permutation.
        """
        super().__init__()
        if pivots.dim() != 2 or coefficients.dim() != 2 or coefficients.shape[1] != len(pivots):
            raise ValueError(
                f"pivots has shape {tuple(pivots.shape)} and coefficients "
                f"{tuple(coefficients.shape)}; give (rank, in) and (out - rank, rank)"
            )
        self.pivots = nn.Parameter(pivots.contiguous())
        self.coefficients = nn.Parameter(coefficients.contiguous())
        check_order("row_order", row_order, self.out_features)
        self.register_buffer("row_order", row_order.to(torch.int32))

    @classmethod
    def empty(cls, shape: PartShape) -> "PivotedLinear":
        """A layer with uninitialised weights, whose first outputs are those of the pivots."""
        (rows, columns), rank = shape.size, shape.num_terms
        return cls(torch.empty(rank, columns), torch.empty(rows - rank, rank), torch.arange(rows))

    @property
    def shape(self) -> PartShape:
        """Shape of the part."""
        rank = len(self.pivots)
        return low_rank_shape(self.out_features, self.in_features, rank, pivoted=True)

    @property
    def in_features(self) -> int:
        """Number of inputs."""
        return self.pivots.shape[1]

    @property
    def out_features(self) -> int:
        """Number of outputs."""
        return len(self.pivots) + len(self.coefficients)

    def reset_buffers_(self) -> None:
        """Set the order to the identity, as in a model without trained weights."""
        self.row_order.copy_(torch.arange(self.out_features, device=self.row_order.device))

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """Apply the layer: (..., in) -> (..., out)."""
        own = F.linear(x, self.pivots)
        outputs = torch.cat((own, F.linear(own, self.coefficients)), dim=-1)
        return outputs.index_select(-1, self.row_order)

    def rows(self, indices: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch in"]:
        """Compute rows of the weight for an embedding look-up: indices (...) -> (..., in)."""
        places, rank = self.row_order[indices].unsqueeze(-1), len(self.pivots)
        others = self.coefficients[(places[..., 0] - rank).clamp(min=0)] @ self.pivots
        own = self.pivots[places[..., 0].clamp(max=rank - 1)]
        return torch.where(places < rank, own, others)

    def materialize(self) -> Float[Tensor, "out in"]:
        """The dense weight (out, in)."""
        return torch.cat((self.pivots, self.coefficients @ self.pivots))[self.row_order]

    def extra_repr(self) -> str:
        """Shapes, for `print(model)`."""
        return self.shape.text()


def check_order(name: str, order: Tensor | None, size: int) -> None:
    """Check that a stored order, if there is one, is a permutation.

    Raises:
        ValueError: it is not; the message contains `name`.
    """
    if order is None:
        return
    # On the meta device, where models are built, an order has a size but no entries.
    if tuple(order.shape) != (size,) or not (
        order.is_meta or sorted(order.tolist()) == list(range(size))
    ):
        raise ValueError(
            f"{name} of shape {tuple(order.shape)} must be a permutation of 0…{size - 1}"
        )
