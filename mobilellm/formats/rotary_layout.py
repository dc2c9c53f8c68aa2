"""The order of the rows of query and key projections, on which the rotary embedding depends.

In one convention, the rotary embedding rotates entries 2i and 2i + 1 of a head together (the paper,
Llama 4, GGUF files of Llama); in the other, entries i and i + half (Hugging Face, this project).
The two differ by a permutation of the rows of the projections.
"""

from jaxtyping import Float
from torch import Tensor


def rows_from_pairs(
    weight: Float[Tensor, "rows columns"], head_dim: int
) -> Float[Tensor, "rows columns"]:
    """Reorder the rows (heads × head_dim) from neighbouring pairs to pairs of halves."""
    rows, columns = weight.shape
    pairs = weight.reshape(rows // head_dim, head_dim // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def rows_to_pairs(
    weight: Float[Tensor, "rows columns"], head_dim: int
) -> Float[Tensor, "rows columns"]:
    """Reorder the rows (heads × head_dim) from pairs of halves to neighbouring pairs."""
    rows, columns = weight.shape
    halves = weight.reshape(rows // head_dim, 2, head_dim // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)
