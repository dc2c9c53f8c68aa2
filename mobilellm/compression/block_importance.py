"""Importance of the stored blocks of a model."""

from collections.abc import Sequence

import torch

from mobilellm.compression.algorithms.importance import block_influence
from mobilellm.compression.recipe import Batch
from mobilellm.compression.structured_cut import pruned_model
from mobilellm.compression.structured_plan import StructuredPlan
from mobilellm.evaluation.validation import sum_losses
from mobilellm.models import MobileLLM
from mobilellm.models.attention_mask import attention_mask_of


def losses_without_blocks(model: MobileLLM, calibration: Sequence[Batch]) -> list[float]:
    """Loss of the model without each stored block, in nats per token."""
    blocks = range(model.config.num_blocks)
    plans = [
        StructuredPlan.whole(model.config, [b for b in blocks if b != removed])
        for removed in blocks
    ]
    return [sum_losses(pruned_model(model, plan), calibration).loss for plan in plans]


@torch.no_grad()
def block_influences(model: MobileLLM, calibration: Sequence[Batch]) -> list[float]:
    """Block influence of each stored block, summed over its applications and over tokens."""
    sums = [0.0] * model.config.num_blocks
    device = next(model.parameters()).device
    for batch in calibration:
        inputs = {key: value.to(device) for key, value in batch.items()}
        ids, mask = inputs["input_ids"], attention_mask_of(inputs)
        output = model(ids, attention_mask=mask, logits=False, capture=("hidden_states",))
        before = model.embed(ids)
        for block, after in zip(
            model.config.layer_order, output.captured["hidden_states"], strict=True
        ):
            sums[block] += block_influence(before, after)
            before = after
    return sums
