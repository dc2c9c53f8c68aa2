"""Fitting a sum of Kronecker products to the outputs of a layer, by alternating least squares.

Minimises tr((W − Σ leftᵢ⊗rightᵢ) S (W − Σ leftᵢ⊗rightᵢ)ᵀ). If the factors of one side are held
fixed, the problem is linear in those of the other side and is solved exactly, so that no step
increases the error.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mobilellm.compression.algorithms.metric import Metric

# Added to the scaled diagonal to keep the normal equations solvable if terms are dependent.
RIDGE = 1e-12


def refit_kronecker(
    weight: Float[Tensor, "rows columns"],
    left: Float[Tensor, "terms m1 n1"],
    right: Float[Tensor, "terms m2 n2"],
    metric: Metric,
    *,
    sweeps: int = 1,
) -> tuple[Float[Tensor, "terms m1 n1"], Float[Tensor, "terms m2 n2"]]:
    """Improve the factors of a sum of Kronecker products under a metric.

    Args:
        weight: (m1·m2, n1·n2), float64.
        left: (terms, m1, n1), initial values in float64.
        right: (terms, m2, n2), initial values in float64.
        metric: with a second moment. Without one the factors are returned unchanged, because
            `nearest_kronecker` is exact already.
        sweeps: how often both sides are solved for.

    Returns:
        left and right of the same shapes, whose error is not larger than before up to rounding.
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
