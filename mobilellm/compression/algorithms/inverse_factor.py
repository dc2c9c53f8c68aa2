"""The Cholesky factor by which changes of columns of a weight are compensated by later columns.

If column j of a weight is changed by an error, the squared error of the outputs is lowest if the
columns after j change by -error / [H⁻¹]ⱼⱼ · [H⁻¹]ⱼ, with H the second moment of the inputs from j
on. Row j of the upper Cholesky factor of H⁻¹ is [H⁻¹]ⱼ / √[H⁻¹]ⱼⱼ, so that one factorisation gives
these rows for all columns and outputs.

Source: Frantar et al. 2023, GPTQ, arXiv:2210.17323, section 3.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def inverse_factor(
    second_moment: Float[Tensor, "inputs inputs"], damping: float
) -> Float[Tensor, "inputs inputs"]:
    """The upper triangular U with UᵀU = H⁻¹ for the damped moment H, in float64.

    Args:
        second_moment: E[x xᵀ] (in, in).
        damping: share of the mean of the moment's diagonal that is added to the diagonal.

    Raises:
        ValueError: the damped moment is singular.
    """
    hessian = second_moment.to(torch.float64, copy=True)
    diagonal = hessian.diagonal()
    dead = diagonal <= 0
    # An input that is always zero has a zero diagonal entry; any positive value makes H regular.
    scale = torch.ones_like(diagonal).mean() if dead.all() else diagonal[~dead].mean()
    diagonal[dead] = scale
    diagonal += damping * scale
    lower, failed = torch.linalg.cholesky_ex(hessian)
    if failed:
        raise ValueError(
            f"the second moment is singular with damping={damping}; give a larger damping "
            "(0.01), or more calibration tokens"
        )
    return torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
