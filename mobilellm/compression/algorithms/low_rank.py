"""The nearest low-rank matrix, in the Frobenius norm or by the error of the layer's outputs.

Source: Eckart and Young 1936; Wang et al. 2025, SVD-LLM, arXiv:2403.07378 (the whitened form).
"""

from jaxtyping import Float
from torch import Tensor

from mobilellm.compression.algorithms.kronecker import truncated_svd
from mobilellm.compression.algorithms.metric import Metric


def nearest_low_rank(
    weight: Float[Tensor, "rows columns"], rank: int, metric: Metric | None = None
) -> tuple[Float[Tensor, "rank rows 1"], Float[Tensor, "rank 1 columns"]]:
    """The matrix of rank `rank` nearest to `weight` under `metric`, as factors of a sum.

    The squared error is the sum of the squares of the singular values of the whitened weight
    beyond the first `rank`.

    Args:
        weight: (out, in).
        rank: at most min(out, in).
        metric: default: the Frobenius norm.

    Returns:
        left (rank, out, 1) and right (rank, 1, in), as `KroneckerLinear` takes them, float64.

    Raises:
        ValueError: the rank is out of range.
    """
    rows, columns = weight.shape
    if not 1 <= rank <= min(rows, columns):
        raise ValueError(
            f"rank={rank} must be between 1 and {min(rows, columns)} for a weight of "
            f"{rows}x{columns}"
        )
    metric = metric or Metric()
    u, s, v = truncated_svd(metric.whiten(weight), rank)
    root = s.double().sqrt()
    left = metric.unwhiten_left(u.double() * root)
    right = metric.unwhiten_right((v.double() * root).T)
    return left.T.unsqueeze(2), right.unsqueeze(1)
