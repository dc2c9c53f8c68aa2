"""The nearest matrix of low rank, plainly or by the error of the layer's outputs.

Source: Eckart and Young 1936; Wang et al. 2025, SVD-LLM, arXiv:2403.07378 (the whitened form).
"""

from torch import Tensor

from mobilellm.compression.algorithms.kronecker import truncated_svd
from mobilellm.compression.algorithms.metric import Metric


def nearest_low_rank(
    weight: Tensor, rank: int, metric: Metric | None = None
) -> tuple[Tensor, Tensor]:
    """The matrix of rank `rank` nearest to `weight` under `metric`, as factors of a sum.

    The squared error is the sum of the squares of the whitened weight's further singular values.

    Args:
        weight: (out, in).
        rank: at most min(out, in).
        metric: default: the Frobenius norm.

    Returns:
        left (rank, out, 1) and right (rank, 1, in), as `KroneckerLinear` takes them, float64.

    Raises:
        ValueError: a rank out of range.
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
    left = u.double() * root
    right = metric.unwhiten((v.double() * root).T)
    return left.T.unsqueeze(2), right.unsqueeze(1)
