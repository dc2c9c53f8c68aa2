"""Several linear layers of one input as a single matrix product, for training on GPUs.

Thin models have narrow matrices, such as the 192 columns of MobileLLM-125M's keys, which occupy a
GPU poorly. Side by side they make one wider product, and in the backward pass the gradients of the
input are summed inside a product instead of one after the other in memory.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

# With fewer rows, as in generation, copying the weights side by side would take longer.
LEAST_ROWS = 1024


def project(
    x: Float[Tensor, "*batch size"], *layers: nn.Module
) -> Sequence[Float[Tensor, "*batch out"]]:
    """The outputs of linear layers that all read `x`, in the order of the layers."""
    rows = x.numel() // x.shape[-1]
    if x.is_cuda and torch.is_grad_enabled() and rows >= LEAST_ROWS and can_join(layers):
        return joint_product(x, layers)  # pyright: ignore[reportArgumentType]
    return [layer(x) for layer in layers]


def can_join(layers: Sequence[nn.Module]) -> bool:
    """Whether the layers are plain matrices of which nobody observes the input or the output."""
    return all(
        type(layer) is nn.Linear
        and layer.bias is None
        and not (layer._forward_hooks or layer._forward_pre_hooks)
        for layer in layers
    )


def joint_product(
    x: Float[Tensor, "*batch size"], layers: Sequence[nn.Linear]
) -> Sequence[Float[Tensor, "*batch out"]]:
    """The outputs of the layers, computed with their weights one below the other."""
    weight = torch.cat([layer.weight for layer in layers])
    return F.linear(x, weight).split([layer.out_features for layer in layers], dim=-1)
