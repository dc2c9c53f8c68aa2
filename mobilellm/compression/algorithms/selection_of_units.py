"""Keeping some of the units that linear layers share: which, and with what weights."""

import torch
from torch import Tensor, nn

from mobilellm.compression.algorithms.coupling import Coupling, coupled_layers, unit_features

# Share of the mean of the diagonal that is added to it: inputs that depend on each other.
DAMPING = 1e-6


def select_units(model: nn.Module, coupling: Coupling, units: Tensor) -> dict[str, Tensor]:
    """The weights of the coupled layers with only the given units.

    Args:
        model: holds the layers of `coupling` as plain `nn.Linear`, without biases on the rows.
        coupling: which rows and columns are the units.
        units: (kept,), ascending.

    Returns:
        New weights by module name.

    Raises:
        ValueError: a layer that is missing or not dense.
    """
    features = unit_features(units, coupling.unit)
    names = (*coupling.rows, *coupling.columns)
    return {
        name: module.weight.detach().index_select(dim, features.to(module.weight.device))
        for name, (module, dim) in zip(names, coupled_layers(model, coupling), strict=True)
    }


def best_columns(weight: Tensor, second_moment: Tensor, kept: Tensor) -> Tensor:
    """The columns that make most of the kept inputs: argmin over V of E‖W x − V x_kept‖².

    In closed form V = W S[:, kept] S[kept, kept]⁻¹: what kept inputs say of removed ones is used.

    Args:
        weight: W (out, in).
        second_moment: S = E[x xᵀ] (in, in) of the inputs.
        kept: (kept,), indices of inputs.

    Returns:
        V (out, kept), in the type of `weight`.
    """
    moment = second_moment.double()
    inner = moment[kept][:, kept]
    ridge = DAMPING * inner.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    eye = torch.eye(len(kept), dtype=torch.float64, device=moment.device)
    # The ridge draws towards the old columns, so that what is never seen stays as it was.
    goal = weight.double() @ moment[:, kept] + ridge * weight.double()[:, kept]
    solved = torch.linalg.solve(inner + ridge * eye, goal.T).T
    return solved.to(weight.dtype).contiguous()


def most_important(importance: Tensor, count: int, groups: int = 1) -> Tensor:
    """Indices of the most important units, `count` of each group; of equals the first.

    Args:
        importance: (units,), which the groups divide evenly, one after the other.
        count: units kept in each group.
        groups: how many groups.

    Returns:
        (groups × count,), ascending.
    """
    by_group = importance.detach().view(groups, -1)
    order = by_group.argsort(dim=1, descending=True, stable=True)[:, :count]
    first = torch.arange(groups, device=order.device).unsqueeze(1) * by_group.shape[1]
    return (order + first).flatten().sort().values
