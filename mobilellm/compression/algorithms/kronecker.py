"""The nearest sum of Kronecker products.

Source: Van Loan and Pitsianis 1993, Approximation with Kronecker products; Edalati et al. 2022,
KnGPT-2, arXiv:2110.08152.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mobilellm.layers import Size

# If at most this share of the singular values of a large matrix is needed, the eigenvectors of its
# Gram matrix in float64 are several times faster than a full SVD. The error of the approximation is
# the same up to 1e-15 of the squared norm of the matrix. On a GPU, this holds for every share.
GRAM_SHARE = 0.6
GRAM_MIN_SIZE = 512


def rearrange(
    weight: Float[Tensor, "rows columns"], left_shape: Size, right_shape: Size
) -> Float[Tensor, "left_size right_size"]:
    """R(W), (m1·n1, m2·n2): the rearrangement that turns a Kronecker product into an outer product.

    Raises:
        ValueError: the product of the factors' shapes is not the weight's shape.
    """
    (m1, n1), (m2, n2) = left_shape, right_shape
    if weight.dim() != 2 or tuple(weight.shape) != (m1 * m2, n1 * n2):
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, but left_shape={tuple(left_shape)} and "
            f"right_shape={tuple(right_shape)} make {(m1 * m2, n1 * n2)}; "
            "give factor shapes whose products are the weight's rows and columns"
        )
    return weight.reshape(m1, m2, n1, n2).permute(0, 2, 1, 3).reshape(m1 * n1, m2 * n2)


def nearest_kronecker(
    weight: Float[Tensor, "rows columns"], left_shape: Size, right_shape: Size, num_terms: int = 1
) -> tuple[Float[Tensor, "num_terms m1 n1"], Float[Tensor, "num_terms m2 n2"]]:
    """The sum of `num_terms` Kronecker products nearest to `weight` in the Frobenius norm.

    The squared error is the sum of the squares of the singular values of `rearrange(weight)`
    beyond the first `num_terms`. Both factors of a term are scaled by the square root of its
    singular value.

    Args:
        weight: (m1·m2, n1·n2), as `nn.Linear` stores it: (out, in).
        left_shape: (m1, n1).
        right_shape: (m2, n2).
        num_terms: at most min(m1·n1, m2·n2), with which the representation is exact.

    Returns:
        left (num_terms, m1, n1) and right (num_terms, m2, n2), in the type of `weight`.

    Raises:
        ValueError: the shapes do not fit, or there are more terms than singular values.

    Source: Van Loan and Pitsianis 1993.
    """
    rearranged = rearrange(weight, left_shape, right_shape)
    most = min(rearranged.shape)
    if not 1 <= num_terms <= most:
        raise ValueError(
            f"num_terms={num_terms} must be between 1 and {most}, with which factors "
            f"{tuple(left_shape)} and {tuple(right_shape)} represent every weight exactly"
        )
    u, s, v = truncated_svd(rearranged, num_terms)
    scale = s.sqrt()
    left = (u * scale).T.reshape(num_terms, *left_shape)
    right = (v * scale).T.reshape(num_terms, *right_shape)
    return left.to(weight.dtype), right.to(weight.dtype)


def truncated_svd(
    matrix: Float[Tensor, "m n"], rank: int
) -> tuple[Float[Tensor, "m rank"], Float[Tensor, "rank"], Float[Tensor, "n rank"]]:
    """The largest `rank` singular values with their vectors: U (m, rank), s, V (n, rank).

    The method is deterministic and exact up to rounding: an eigendecomposition of the smaller Gram
    matrix in float64 on a GPU, if one side is short, or if `rank` is a part of a large matrix,
    otherwise a full SVD.
    """
    m, n = matrix.shape
    small = min(m, n)
    few = small >= GRAM_MIN_SIZE and rank <= GRAM_SHARE * small
    if few or matrix.is_cuda or 4 * small <= max(m, n):
        return _svd_by_gram(matrix, rank)
    work = matrix if matrix.dtype == torch.float64 else matrix.float()
    u, s, vh = torch.linalg.svd(work, full_matrices=False)
    return u[:, :rank], s[:rank], vh[:rank].mH


def _svd_by_gram(
    matrix: Float[Tensor, "m n"], rank: int
) -> tuple[Float[Tensor, "m rank"], Float[Tensor, "rank"], Float[Tensor, "n rank"]]:
    """The largest singular values and vectors from the eigenvectors of the smaller Gram matrix."""
    if matrix.shape[0] < matrix.shape[1]:
        u, s, v = _svd_by_gram(matrix.mT, rank)
        return v, s, u
    tall = matrix.double()
    _, vectors = torch.linalg.eigh(tall.mT @ tall)
    v = vectors.flip(-1)[:, :rank]
    scaled = tall @ v
    s = torch.linalg.vector_norm(scaled, dim=0)
    # For a singular value of zero any vector is valid, because it is multiplied by zero.
    return scaled / s.clamp(min=torch.finfo(s.dtype).tiny), s, v
