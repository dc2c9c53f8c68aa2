"""How much the loss, or the output, needs units that are to be removed.

All statistics are sums over every use of a module: what is applied several times is one thing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilellm.compression.algorithms.coupling import Coupling

Batch = dict[str, Tensor]


def taylor_importance(
    model: nn.Module,
    couplings: Sequence[Coupling],
    batches: Iterable[Batch],
    loss: Callable[[Batch], Tensor],
) -> dict[str, Tensor]:
    """First-order estimate of what removing each unit does to the loss: Σ |Σ input · gradient|.

    The inner sum runs over a sequence's tokens and over every use of the layer, and is the slope
    of the sequence's loss as the unit is faded out; the outer one over sequences.

    Args:
        model: its parameters need no gradients.
        couplings: with one layer each in `columns`, whose inputs are the units.
        batches: passed to `loss` one by one.
        loss: runs `model` on a batch of sequences; the sum of their losses.

    Returns:
        float64 (num_units,) by the couplings' names, in the loss's unit.

    Source: Molchanov et al. 2019, arXiv:1906.10771; Michel et al. 2019, arXiv:1905.10650.
    """
    total: dict[str, Tensor] = {}
    for batch in batches:
        with _gates(model, couplings) as gates, torch.enable_grad():
            value = loss(batch)  # makes the gates
            slopes = torch.autograd.grad(value, list(gates.values()))
        for name, slope in zip(gates, slopes, strict=True):
            added = slope.double().abs().sum(0)
            total[name] = total[name] + added if name in total else added
    return total


def output_importance(weight: Tensor, second_moment: Tensor, unit: int = 1) -> Tensor:
    """What each unit adds to a layer's output: E‖W_u x_u‖², with W_u and x_u its part of each.

    Args:
        weight: (out, units × unit).
        second_moment: E[x xᵀ] (in, in) of the layer's inputs.
        unit: inputs of one unit.

    Returns:
        float64 (units,).
    """
    blocks = weight.double().unflatten(1, (-1, unit))  # (out, units, unit)
    moment = second_moment.double().unflatten(1, (-1, unit)).unflatten(0, (-1, unit))
    own = moment.diagonal(dim1=0, dim2=2)  # (unit, unit, units)
    return torch.einsum("oua,abu,oub->u", blocks, own, blocks)


def block_influence(before: Tensor, after: Tensor) -> float:
    """Sum over tokens of 1 − cos(before, after), both (..., hidden); 0 if no direction changes.

    Source: Men et al. 2024, ShortGPT, arXiv:2403.03853.
    """
    return float((1 - F.cosine_similarity(before.double(), after.double(), dim=-1)).sum())


@contextmanager
def _gates(model: nn.Module, couplings: Sequence[Coupling]) -> Iterator[dict[str, Tensor]]:
    """While open, the units are multiplied by ones (batch, units), made at the first use."""
    gates: dict[str, Tensor] = {}

    def multiply(coupling: Coupling, x: Tensor) -> Tensor:
        if coupling.name not in gates:
            gates[coupling.name] = x.new_ones(x.shape[0], coupling.num_units, requires_grad=True)
        gate = gates[coupling.name].repeat_interleave(coupling.unit, dim=1)
        return x * gate.view(x.shape[0], *(1,) * (x.dim() - 2), -1)

    hooks = [
        model.get_submodule(coupling.columns[0]).register_forward_pre_hook(
            lambda _, args, coupling=coupling: (multiply(coupling, args[0]),)
        )
        for coupling in couplings
    ]
    try:
        yield gates
    finally:
        for hook in hooks:
            hook.remove()
