"""Fitting a sum of Kronecker products to the outputs of a layer, by alternating least squares.

Minimises tr((W − Σ leftᵢ⊗rightᵢ) S (W − Σ leftᵢ⊗rightᵢ)ᵀ). With either side's factors held the
problem is linear in the other's and solved exactly, so that no step can raise the error.
"""

import torch
from torch import Tensor

from mobilellm.compression.algorithms.metric import Metric

# Keeps the normal equations solvable where terms depend on each other.
RIDGE = 1e-12


def refit_kronecker(
    weight: Tensor, left: Tensor, right: Tensor, metric: Metric, *, sweeps: int = 1
) -> tuple[Tensor, Tensor]:
    """Improve the factors of a sum of products.

    Args:
        weight: (m1·m2, n1·n2), float64.
        left: (terms, m1, n1) to begin with, float64.
        right: (terms, m2, n2).
        metric: with a moment; without one `nearest_kronecker` is exact already.
        sweeps: times both sides are solved for.

    Returns:
        left and right of the same shapes, the error at most what it was (to rounding).
    """
    terms, m1, n1 = left.shape
    _, m2, n2 = right.shape
    if metric.moment is None:
        return left, right
    projected = metric.times_moment(weight).view(m1, m2, n1, n2)
    # (c, e, d, f): both left columns, then both right columns.
    moment = metric.moment.view(n1, n2, n1, n2).permute(0, 2, 1, 3).reshape(n1 * n1, n2 * n2)
    for _ in range(sweeps):
        pairs = torch.einsum("ibd,jbf->dfij", right, right).reshape(n2 * n2, terms * terms)
        gram = (moment @ pairs).view(n1, n1, terms, terms).permute(2, 0, 3, 1)
        goal = torch.einsum("abcd,ibd->aic", projected, right).reshape(m1, terms * n1)
        left = _solve(gram.reshape(terms * n1, terms * n1), goal).view(m1, terms, n1)
        left = left.transpose(0, 1).contiguous()
        pairs = torch.einsum("iac,jae->ijce", left, left).reshape(terms * terms, n1 * n1)
        gram = (pairs @ moment).view(terms, terms, n2, n2).permute(0, 2, 1, 3)
        goal = torch.einsum("abcd,iac->bid", projected, left).reshape(m2, terms * n2)
        right = _solve(gram.reshape(terms * n2, terms * n2), goal).view(m2, terms, n2)
        right = right.transpose(0, 1).contiguous()
    return left, right


def _solve(gram: Tensor, goal: Tensor) -> Tensor:
    """The product goal gram⁻¹ for a symmetric positive (semi-)definite Gram matrix."""
    scale = gram.diagonal().clamp(min=torch.finfo(gram.dtype).tiny).rsqrt()
    scaled = gram * scale * scale.unsqueeze(1)
    scaled.diagonal().add_(RIDGE)
    factor, failed = torch.linalg.cholesky_ex(scaled)
    if failed:
        return goal @ torch.linalg.pinv(gram, hermitian=True)
    return torch.cholesky_solve((goal * scale).T, factor).T * scale
