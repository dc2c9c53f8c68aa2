"""Rounding column by column, with the error of each column compensated by the columns after it.

Source: Frantar et al. 2023, GPTQ, arXiv:2210.17323.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from mobilellm.compression.algorithms.inverse_factor import inverse_factor
from mobilellm.layers.number_format import NumberFormat
from mobilellm.layers.quantization_grid import Grid

# After so many columns, or after a group if that has more, all later columns are adjusted at once.
BLOCK_SIZE = 128


def gptq(
    weight: Float[Tensor, "rows columns"],
    second_moment: Float[Tensor, "columns columns"],
    number_format: NumberFormat,
    *,
    activation_order: bool = False,
    damping: float = 0.01,
) -> tuple[Float[Tensor, "rows columns"], Grid]:
    """Quantize a weight so that the outputs of its layer change little.

    The scales of a group are those of its weights when its first column is rounded, after they were
    adjusted to the errors of earlier columns. With `activation_order`, and for normal levels, whose
    scales are stored together, they are those of the original weights.

    Args:
        weight: (out, in).
        second_moment: E[x xᵀ] (in, in) of the layer's inputs.
        number_format: its group divides the inputs.
        activation_order: whether columns are rounded in the order of falling mean squares of their
            inputs, so that the errors of important columns can be compensated by most others.
        damping: share of the mean of the moment's diagonal that is added to the diagonal.

    Returns:
        The codes (out, in), whole numbers in float64; the grid of their values.

    Raises:
        ValueError: the damped moment is singular.
    """
    columns = weight.shape[1]
    weight = weight.detach().double()
    order = torch.arange(columns, device=weight.device)
    if activation_order:
        order = second_moment.diagonal().argsort(descending=True, stable=True)
    factor = inverse_factor(second_moment[order][:, order], damping)
    work = weight.masked_fill(second_moment.diagonal() <= 0, 0)[:, order]
    grid = Grid.fit(weight, number_format)
    groups = [grid.of_group(index) for index in range(number_format.num_groups(columns))]
    width = columns // len(groups)
    refits = number_format.levels == "uniform" and not activation_order
    of_a_group = replace(number_format, group=None) if refits else number_format
    codes = torch.empty_like(work)
    step = max(BLOCK_SIZE, number_format.group or 0)
    for start in range(0, columns, step):
        stop = min(start + step, columns)
        errors = torch.zeros_like(work[:, start:stop])
        for column in range(start, stop):
            group, here = int(order[column]) // width, slice(column, column + 1)
            if refits and column % width == 0:
                groups[group] = Grid.fit(work[:, column : column + width], of_a_group)
            codes[:, here] = groups[group].codes_of(work[:, here])
            error = (work[:, here] - groups[group].values_of(codes[:, here])) / factor[here, here]
            errors[:, column - start] = error[:, 0]
            work[:, column:stop] -= error * factor[here, column:stop]
        work[:, stop:] -= errors @ factor[start:stop, stop:]
    if refits:
        grid = Grid.join(groups, number_format)
    return codes[:, order.argsort()], grid
