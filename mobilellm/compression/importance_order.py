"""Sorting the units of a model by importance, so that its leading slices are the best ones.

The sorted model computes the same function: neither norms nor rotary embeddings depend on the index
of a channel or a head, and the entries of the residual stream may be reordered if every matrix that
reads or writes it is reordered in the same way.

Source: Cai et al. 2020, Once-for-All, arXiv:1908.09791, section 3.2 (channel sorting); Muralidharan
et al. 2024, Minitron, arXiv:2407.14679, section 2.2 (importance of the width).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mobilellm.checkpoint import model_from_state
from mobilellm.compression.algorithms.coupling import unit_features
from mobilellm.compression.algorithms.importance import taylor_importance
from mobilellm.compression.apply import working_copy
from mobilellm.compression.couplings import couplings
from mobilellm.compression.kept_units import loss_sum
from mobilellm.compression.recipe import Batch
from mobilellm.compression.structured_plan import check_dense_blocks
from mobilellm.models import MobileLLM
from mobilellm.models.attention_mask import attention_mask_of
from mobilellm.models.config import BlockShape
from mobilellm.models.norm import RMSNorm

_FROM_STREAM = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_TO_STREAM = ("o_proj", "down_proj")


def sorted_by_importance(model: MobileLLM, calibration: Sequence[Batch]) -> MobileLLM:
    """The same function, with the most important channels, heads and stream entries first.

    Key-value groups are sorted by the importance of all their query heads, and query heads within
    their group. The order of blocks stays.

    Args:
        model: is not changed; its blocks must be dense.
        calibration: batches of `input_ids` and `labels`, each (batch, seq).

    Raises:
        ValueError: a block contains compressed matrices.
    """
    check_dense_blocks(model.config)
    working = working_copy(model)
    scores = taylor_importance(
        working, couplings(model.config), calibration, lambda batch: loss_sum(working, batch)
    )
    stream = _descending(stream_importance(working, calibration))
    state: dict[str, Tensor] = {}
    for name, weight in model.state_dict().items():
        state[name] = _reorder_stream(name, weight, stream)
    for index, shape in enumerate(model.config.block_shapes):
        prefix = f"blocks.{index}"
        channels = _descending(scores[f"{prefix}.hidden"])
        for matrix, axis in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
            _reorder(state, f"{prefix}.feed_forward.{matrix}.weight", axis, channels)
        heads, groups = _order_of_heads(scores[f"{prefix}.heads"], shape)
        dim: int = model.config.head_dim  # pyright: ignore[reportAssignmentType]
        for matrix, axis, units in (
            ("q_proj", 0, heads), ("o_proj", 1, heads), ("k_proj", 0, groups), ("v_proj", 0, groups)
        ):  # fmt: skip
            features = unit_features(units, dim)
            _reorder(state, f"{prefix}.attention.{matrix}.weight", axis, features)
    return model_from_state(model.config, state, "the sorted model").train(model.training)


@torch.no_grad()
def stream_importance(model: MobileLLM, calibration: Sequence[Batch]) -> Float[Tensor, " hidden"]:
    """Importance of each entry of the residual stream: Σ |norm(x)| over norms and tokens.

    Args:
        model: the model.
        calibration: batches of `input_ids`, (batch, seq).

    Returns:
        float64 (hidden,).
    """
    total = torch.zeros(model.config.hidden_size, dtype=torch.float64)

    def add(_module: object, _inputs: object, output: Tensor) -> None:
        total.add_(output.double().abs().flatten(0, -2).sum(0).cpu())

    norms = [model.norm]
    for block in model.blocks:
        norms += [block.attention_norm, block.feed_forward_norm]  # pyright: ignore
    hooks = [norm.register_forward_hook(add) for norm in norms if isinstance(norm, RMSNorm)]
    try:
        for batch in calibration:
            mask = attention_mask_of(batch)
            model(batch["input_ids"], attention_mask=mask, logits=False)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def _descending(importance: Tensor) -> Tensor:
    """Indices from the most to the least important; of equal units the first."""
    return importance.argsort(descending=True, stable=True)


def _order_of_heads(importance: Tensor, shape: BlockShape) -> tuple[Tensor, Tensor]:
    """Query heads and key-value heads in their new order, which keeps groups together."""
    by_group = importance.view(shape.num_key_value_heads, -1)
    groups = _descending(by_group.sum(1))
    inside = by_group.argsort(dim=1, descending=True, stable=True)[groups]
    heads = (inside + groups.unsqueeze(1) * by_group.shape[1]).flatten()
    return heads, groups


def _reorder(state: dict[str, Tensor], name: str, axis: int, order: Tensor) -> None:
    """Reorder one axis of a weight, if the model has it."""
    if name in state:
        state[name] = state[name].index_select(axis, order)


def _reorder_stream(name: str, weight: Tensor, order: Tensor) -> Tensor:
    """Reorder the axis along which the residual stream runs, if there is one."""
    matrix = name.split(".")[-2]
    if matrix in ("q_norm", "k_norm"):
        return weight.clone()
    is_read = matrix in (*_FROM_STREAM, "embedding", "head")
    return weight.index_select(1 if is_read else 0, order)
