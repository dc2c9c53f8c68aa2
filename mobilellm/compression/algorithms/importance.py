"""Importance of units and blocks for structured pruning: the effect of removing them.

All statistics are summed over every application of a module, so that a module that is applied
several times gets one value.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mobilellm.compression.algorithms.coupling import Coupling

Batch = dict[str, Tensor]


def taylor_importance(
    model: nn.Module,
    couplings: Sequence[Coupling],
    batches: Iterable[Batch],
    loss: Callable[[Batch], Tensor],
) -> dict[str, Tensor]:
    """First-order estimate of how removing each unit changes the loss: Σ |Σ input · gradient|.

    The inner sum runs over the tokens of a sequence and over every application of the layer. It is
    the derivative of the sequence's loss with respect to a factor on the unit. The outer sum runs
    over sequences.

    Args:
        model: its parameters need no gradients.
        couplings: each has one layer in `columns`, whose inputs are the units.
        batches: passed to `loss` one by one.
        loss: runs `model` on a batch of sequences and returns the sum of their losses.

    Returns:
        One float64 tensor (num_units,) per coupling, by its name, in the unit of the loss.

    Source: Molchanov et al. 2019, arXiv:1906.10771; Michel et al. 2019, arXiv:1905.10650.
    """
    total: dict[str, Tensor] = {}
    for batch in batches:
        with _gates(model, couplings) as gates, torch.enable_grad():
            value = loss(batch)  # The forward pass creates the gates.
            gradients = torch.autograd.grad(value, list(gates.values()))
        for name, gradient in zip(gates, gradients, strict=True):
            added = gradient.double().abs().sum(0)
            total[name] = total[name] + added if name in total else added
    return total


def output_importance(
    weight: Float[Tensor, "out_features in_features"],
    second_moment: Float[Tensor, "in_features in_features"],
    unit: int = 1,
) -> Float[Tensor, "units"]:
    """Mean squared contribution of each unit to a layer's output: E‖W_u x_u‖².

    W_u are the columns of the weight, and x_u the entries of the input, that belong to unit u.

    Args:
        weight: (out, units × unit).
        second_moment: E[x xᵀ] (in, in) of the layer's inputs.
        unit: number of inputs of one unit.

    Returns:
        float64 (units,).
    """
    blocks = weight.double().unflatten(1, (-1, unit))  # (out, units, unit)
    moment = second_moment.double().unflatten(1, (-1, unit)).unflatten(0, (-1, unit))
    own = moment.diagonal(dim1=0, dim2=2)  # (unit, unit, units)
    return torch.einsum("oua,abu,oub->u", blocks, own, blocks)


def block_influence(
    before: Float[Tensor, "*tokens hidden"], after: Float[Tensor, "*tokens hidden"]
) -> float:
    """Sum over tokens of 1 − cos(before, after), for hidden states before and after a block.

    It is 0 if the block changes no hidden state's direction.

    Source: Men et al. 2024, ShortGPT, arXiv:2403.03853.
    """
    return float((1 - F.cosine_similarity(before.double(), after.double(), dim=-1)).sum())


@contextmanager
def _gates(model: nn.Module, couplings: Sequence[Coupling]) -> Iterator[dict[str, Tensor]]:
    """Multiply the units by gates (batch, units), which are ones that require a gradient.

    The gates are created when the model runs. The hooks are removed when the context ends.
    """
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
