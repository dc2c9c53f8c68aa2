"""Selecting the units that structured pruning keeps, and the weights of the smaller layers."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mobilellm.compression.algorithms.coupling import Coupling, coupled_layers, unit_features

# Share of the mean of the moment's diagonal that is added to the diagonal, so that it can be
# inverted if inputs are linearly dependent.
DAMPING = 1e-6


def select_units(
    model: nn.Module, coupling: Coupling, units: Int[Tensor, "kept"]
) -> dict[str, Tensor]:
    """The weights of the coupled layers restricted to the given units.

    Args:
        model: contains the layers of `coupling` as plain `nn.Linear`; those in `rows` without bias.
        coupling: the layers and their units.
        units: indices of the units to keep, ascending.

    Returns:
        The new weights by module name.

    Raises:
        ValueError: a layer is missing or not dense.
    """
    features = unit_features(units, coupling.unit)
    names = (*coupling.rows, *coupling.columns)
    return {
        name: module.weight.detach().index_select(dim, features.to(module.weight.device))
        for name, (module, dim) in zip(names, coupled_layers(model, coupling), strict=True)
    }


def best_columns(
    weight: Float[Tensor, "out_features in_features"],
    second_moment: Float[Tensor, "in_features in_features"],
    kept: Int[Tensor, "kept"],
) -> Float[Tensor, "out_features kept"]:
    """The columns that best reproduce the outputs from the kept inputs.

    They are argmin over V of E‖W x − V x_kept‖², in closed form V = W S[:, kept] S[kept, kept]⁻¹.
    This uses the correlation of removed inputs with kept ones.

    Args:
        weight: W (out, in).
        second_moment: S = E[x xᵀ] (in, in) of the inputs.
        kept: (kept,), indices of inputs.

    Returns:
        V (out, kept), of the dtype of `weight`.
    """
    moment = second_moment.double()
    inner = moment[kept][:, kept]
    ridge = DAMPING * inner.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    eye = torch.eye(len(kept), dtype=torch.float64, device=moment.device)
    # The ridge penalises the distance to the old columns, so that columns of inputs that are always
    # zero do not change.
    goal = weight.double() @ moment[:, kept] + ridge * weight.double()[:, kept]
    solved = torch.linalg.solve(inner + ridge * eye, goal.T).T
    return solved.to(weight.dtype).contiguous()


def most_important(
    importance: Float[Tensor, "units"], count: int, groups: int = 1
) -> Int[Tensor, "kept"]:
    """Indices of the `count` most important units of each group; of equal units the first.

    Args:
        importance: (units,); the groups are consecutive and of equal size.
        count: number of units to keep in each group.
        groups: number of groups.

    Returns:
        (groups × count,), ascending.
    """
    by_group = importance.detach().view(groups, -1)
    order = by_group.argsort(dim=1, descending=True, stable=True)[:, :count]
    first = torch.arange(groups, device=order.device).unsqueeze(1) * by_group.shape[1]
    return (order + first).flatten().sort().values
