"""Masks that set weights of a matrix to zero, and the adjustment of the other weights.

The pattern is `unstructured`, or n:m, which keeps n of every m neighbouring inputs; some GPUs
multiply 2:4 matrices faster. Exactly `pruned_count` entries are set to zero; of equal scores the
first is pruned.
"""

import math
import re
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mobilellm.compression.algorithms.inverse_factor import inverse_factor

UNSTRUCTURED = "unstructured"


def check_pattern(
    sparsity: float, pattern: str, width: int | None = None
) -> tuple[int, int] | None:
    """Check a sparsity and a pattern; return (n, m) of an n:m pattern, None for `unstructured`.

    Args:
        sparsity: share of the entries that become zero.
        pattern: `unstructured`, or n:m.
        width: number of inputs of the matrix; None: not known yet.

    Raises:
        ValueError: the sparsity is outside [0, 1) or contradicts the pattern, the pattern is
            unknown, or the width is not divisible by m.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(
            f"sparsity={sparsity} must be at least 0 and below 1: the share of weights set to zero"
        )
    if pattern == UNSTRUCTURED:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", pattern)
    n, m = map(int, match.groups()) if match else (0, 0)
    if not 0 < n < m:
        raise ValueError(
            f"pattern={pattern!r} is not known; use {UNSTRUCTURED}, 2:4 or another n:m with n kept "
            "of every m"
        )
    if not math.isclose(sparsity, 1 - n / m):
        raise ValueError(
            f"sparsity={sparsity} contradicts pattern={pattern}, which keeps {n} of {m}; "
            f"use sparsity={1 - n / m:g}, or pattern={UNSTRUCTURED}"
        )
    if width is not None and width % m:
        raise ValueError(
            f"pattern={pattern} needs a number of inputs divisible by {m}, the matrix has {width}; "
            f"use pattern={UNSTRUCTURED} for it, or do not prune it"
        )
    return n, m


def pruned_count(entries: int, sparsity: float) -> int:
    """Number of entries that become zero: sparsity x entries, rounded half up."""
    return math.floor(sparsity * entries + 0.5)


def magnitude_mask(
    weight: Float[Tensor, "out_features in_features"], sparsity: float, pattern: str = UNSTRUCTURED
) -> Bool[Tensor, "out_features in_features"]:
    """Keep the entries of largest magnitude, compared over the whole matrix.

    Args:
        weight: (out, in).
        sparsity: share of the entries that become zero, in [0, 1).
        pattern: `unstructured`, or n:m along the inputs.

    Returns:
        bool (out, in), True for entries that are kept.

    Raises:
        ValueError: as `check_pattern`.
    """
    groups = check_pattern(sparsity, pattern, weight.shape[1])
    if groups is not None:
        return _keep_n_of_m(weight.abs(), *groups)
    count = pruned_count(weight.numel(), sparsity)
    return ~_lowest(weight.abs().reshape(1, -1), count).view(weight.shape)


def wanda_mask(
    weight: Float[Tensor, "out_features in_features"],
    input_norms: Tensor,
    sparsity: float,
    pattern: str = UNSTRUCTURED,
) -> Bool[Tensor, "out_features in_features"]:
    """Keep the entries with the largest |W| · ‖x‖, compared within each output's row.

    The number of pruned entries differs by at most one between rows, so that the matrix has
    exactly the requested number in total.

    Args:
        weight: (out, in).
        input_norms: (in,), root mean square of each input, up to a common factor.
        sparsity: share of the entries that become zero, in [0, 1).
        pattern: `unstructured`, or n:m along the inputs.

    Returns:
        bool (out, in), True for entries that are kept.

    Raises:
        ValueError: as `check_pattern`, or the norms have another shape.

    Source: Sun et al. 2023, Wanda, arXiv:2306.11695.
    """
    rows, width = weight.shape
    groups = check_pattern(sparsity, pattern, width)
    if input_norms.shape != (width,):
        raise ValueError(
            f"input_norms has shape {tuple(input_norms.shape)}; give one per input, ({width},)"
        )
    scores = weight.double().abs() * input_norms.double()
    if groups is not None:
        return _keep_n_of_m(scores, *groups)
    return ~_lowest(scores, _shares(rows, width, sparsity))


def sparsegpt(
    weight: Float[Tensor, "out_features in_features"],
    second_moment: Tensor,
    sparsity: float,
    pattern: str = UNSTRUCTURED,
    *,
    block_size: int = 128,
    damping: float = 0.01,
) -> tuple[Float[Tensor, "out_features in_features"], Bool[Tensor, "out_features in_features"]]:
    """Prune column by column, and adjust the columns to the right to compensate the error.

    Pruning w_j increases the squared error by w_j² / [H⁻¹]_jj after the optimal adjustment
    w −= w_j / [H⁻¹]_jj · [H⁻¹]_j, with H the moment of the inputs from j on. Row j of the upper
    Cholesky factor U of H⁻¹ is [H⁻¹]_j / √[H⁻¹]_jj, so that one factorisation gives these rows for
    all columns and outputs.

    Args:
        weight: (out, in).
        second_moment: E[x xᵀ] (in, in) of the layer's inputs.
        sparsity: share of the entries that become zero, in [0, 1).
        pattern: `unstructured`, chosen per block of columns, or n:m, chosen per m columns.
        block_size: number of columns whose mask is chosen together, once all columns to the left
            are pruned.
        damping: share of the mean of the moment's diagonal that is added to the diagonal.

    Returns:
        The new weight (out, in), of the dtype of `weight`, with zeros at the pruned entries; the
        mask, bool (out, in), True for entries that are kept.

    Raises:
        ValueError: as `check_pattern`; or the moment has another shape, block_size is not a
            multiple of m, or the damped moment is singular.

    Source: Frantar and Alistarh 2023, SparseGPT, arXiv:2301.00774.
    """
    rows, width = weight.shape
    groups = check_pattern(sparsity, pattern, width)
    _check_blocks(second_moment, width, block_size, pattern, groups)
    work = weight.detach().to(torch.float64, copy=True)
    work[:, second_moment.diagonal() <= 0] = 0  # Inputs that are always zero are pruned first.
    factor = inverse_factor(second_moment, damping)
    mask = torch.ones_like(work, dtype=torch.bool)
    for start in range(0, width, block_size):
        stop = min(start + block_size, width)
        block, kept = work[:, start:stop], mask[:, start:stop]
        upper = factor[start:stop, start:stop]
        diagonal = upper.diagonal()
        if groups is None:
            count = pruned_count(rows * stop, sparsity) - pruned_count(rows * start, sparsity)
            scores = (block / diagonal).square()
            kept.copy_(~_lowest(scores.reshape(1, -1), count).view(scores.shape))
        errors = torch.zeros_like(block)
        for column in range(stop - start):
            if groups is not None and column % groups[1] == 0:
                group = slice(column, column + groups[1])
                scores = (block[:, group] / diagonal[group]).square()
                kept[:, group] = _keep_n_of_m(scores, *groups)
            pruned = block[:, column] * ~kept[:, column]
            errors[:, column] = pruned / diagonal[column]
            block[:, column:] -= errors[:, column, None] * upper[column, column:]
        work[:, stop:] -= errors @ factor[start:stop, stop:]
    return (work * mask).to(weight.dtype), mask


def _check_blocks(
    second_moment: Tensor,
    width: int,
    block_size: int,
    pattern: str,
    groups: tuple[int, int] | None,
) -> None:
    if second_moment.shape != (width, width):
        raise ValueError(
            f"second_moment has shape {tuple(second_moment.shape)}; the weight has {width} inputs, "
            f"give ({width}, {width})"
        )
    step = 1 if groups is None else groups[1]
    if block_size < 1 or block_size % step:
        raise ValueError(
            f"block_size={block_size} would split groups of pattern={pattern}; give a positive "
            f"multiple of {step}"
        )


def _shares(rows: int, width: int, sparsity: float) -> Tensor:
    """Number of entries to prune in each row.

    The first k rows together have exactly the rounded number of pruned entries, for every k.
    """
    until = [pruned_count(row * width, sparsity) for row in range(rows + 1)]
    return torch.tensor([after - before for before, after in pairwise(until)])


def _lowest(scores: Tensor, count: int | Tensor) -> Tensor:
    """Mask (rows, entries) of the `count` lowest scores of each row; of equal scores the first.

    `count` is one number, or one per row.
    """
    order = scores.argsort(dim=1, stable=True)
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    if isinstance(count, Tensor):
        count = count.to(scores.device).unsqueeze(1)
    chosen = places < count
    return torch.zeros_like(chosen).scatter_(1, order, chosen)


def _keep_n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    """Mask (out, in) of the n highest of every m neighbouring scores."""
    return ~_lowest(scores.reshape(-1, m), m - n).view(scores.shape)
