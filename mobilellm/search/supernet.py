"""Sub-networks of a trained model: smaller models of the family that use slices of its weights.

Which slices is documented in `supernet_shape`.
"""

import torch
from torch import Tensor

from mobilellm.checkpoint import model_from_state
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.config import BlockShape
from mobilellm.search.supernet_shape import check_contained, kept_blocks

# Names of the matrices of a block, by the axis along which the residual stream runs.
_FROM_STREAM = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_TO_STREAM = ("o_proj", "down_proj")


class Supernet:
    """A model and the sub-networks that use its weights.

    Args:
        model: the whole model. Its parameters are used and trained, but not replaced.
    """

    def __init__(self, model: MobileLLM) -> None:
        """Keep the model; sub-networks are made when they are asked for."""
        self.model = model
        self._networks: dict[ModelConfig, MobileLLM] = {}

    def sub_network(self, shape: ModelConfig) -> MobileLLM:
        """The sub-network of a shape, whose weights are slices of the model's.

        It computes what an ordinary model with these weights computes, and its gradients are added
        to those of the model's parameters. It has no parameters of its own: ask for it again after
        an optimizer step or a backward pass. For a model that can be saved, use `extract`.

        Args:
            shape: configuration of the sub-network.

        Raises:
            ValueError: the model does not contain the shape; see `check_contained`.
        """
        if shape not in self._networks:
            check_contained(self.model.config, shape)
            with torch.device("meta"):
                self._networks[shape] = MobileLLM(shape)
        network = self._networks[shape]
        for name, weight in _slices(self.model, shape).items():
            _set_plain_tensor(network, name, weight)
        return network.train(self.model.training)


def _set_plain_tensor(network: MobileLLM, name: str, weight: Tensor) -> None:
    """Replace a parameter by a tensor, which unlike a parameter need not be a leaf of the graph."""
    module, _, attribute = name.rpartition(".")
    owner = network.get_submodule(module)
    owner._parameters.pop(attribute, None)
    setattr(owner, attribute, weight)


def extract(supernet: MobileLLM, shape: ModelConfig) -> MobileLLM:
    """An ordinary model of a shape, with copies of the sub-network's weights.

    Args:
        supernet: the whole model, which is not changed.
        shape: configuration of the sub-network.

    Raises:
        ValueError: the supernet does not contain the shape; see `check_contained`.
    """
    check_contained(supernet.config, shape)
    with torch.no_grad():
        state = {
            name: weight.clone(memory_format=torch.contiguous_format)
            for name, weight in _slices(supernet, shape).items()
        }
    return model_from_state(shape, state, "the supernet").train(supernet.training)


def _slices(supernet: MobileLLM, shape: ModelConfig) -> dict[str, Tensor]:
    """The weights of a sub-network, by the names of a model of its shape.

    They are views of the supernet's parameters with a gradient, except those of query heads if not
    all heads of a group are kept.
    """
    wholes, owns = supernet.config.block_shapes, shape.block_shapes
    kept = kept_blocks(supernet.config.num_blocks, shape.num_blocks)
    places = {block: place for place, block in enumerate(kept)}
    sliced: dict[str, Tensor] = {}
    for name, weight in supernet.named_parameters():
        first, _, rest = name.partition(".")
        if first != "blocks":
            sliced[name] = weight[..., : shape.hidden_size]
            continue
        index, _, inner = rest.partition(".")
        if (place := places.get(int(index))) is None:
            continue
        head_dim: int = shape.head_dim  # pyright: ignore[reportAssignmentType]
        units = _slice_units(inner, weight, wholes[int(index)], owns[place], head_dim)
        sliced[f"blocks.{place}.{inner}"] = _slice_stream(inner, units, shape.hidden_size)
    return sliced


def _slice_stream(name: str, weight: Tensor, hidden_size: int) -> Tensor:
    """The leading entries of the axis along which the residual stream runs, if there is one."""
    matrix = name.split(".")[-2]
    if matrix in _TO_STREAM:
        return weight[:hidden_size]
    if matrix in _FROM_STREAM:
        return weight[:, :hidden_size]
    # QK-norms have one weight per entry of a head, and heads have the same width.
    return weight if matrix in ("q_norm", "k_norm") else weight[:hidden_size]


def _slice_units(
    name: str, weight: Tensor, whole: BlockShape, own: BlockShape, head_dim: int
) -> Tensor:
    """The leading channels or heads of the axis along which they run, if there is one."""
    matrix = name.split(".")[-2]
    if matrix in ("gate_proj", "up_proj"):
        return weight[: own.intermediate_size]
    if matrix == "down_proj":
        return weight[:, : own.intermediate_size]
    if matrix in ("k_proj", "v_proj"):
        return weight[: own.num_key_value_heads * head_dim]
    if matrix == "q_proj":
        return _slice_heads(weight, whole, own, head_dim)
    if matrix == "o_proj":
        return _slice_heads(weight.T, whole, own, head_dim).T
    return weight


def _slice_heads(weight: Tensor, whole: BlockShape, own: BlockShape, head_dim: int) -> Tensor:
    """Rows of the leading query heads of each of the leading groups: (heads × head_dim, …)."""
    groups, size = own.num_key_value_heads, own.num_attention_heads // own.num_key_value_heads
    all_heads = weight.unflatten(0, (whole.num_key_value_heads, -1, head_dim))
    return all_heads[:groups, :size].flatten(0, 2)
