"""Training of a supernet: the sandwich rule and in-place distillation.

In each step, the largest shape is trained on the labels. The smallest shape and some random ones
learn from the output of the largest, which costs no further teacher, and from the labels. The
losses are added; those of the sub-networks have weights that do not grow with their number.

Source: Yu and Huang 2019, arXiv:1903.05134, sections 3.1 and 3.3.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mobilellm.accounting import flops_per_token
from mobilellm.labels import IGNORE_INDEX
from mobilellm.losses.chunked import chunked_losses
from mobilellm.losses.label_losses import SoftLabels
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.attention_mask import attention_mask_of
from mobilellm.search.supernet_space import SupernetSpace

# Shapes from which the mean cost of a shape is computed if the space has more.
SAMPLED_SHAPES = 256


def sandwich(
    space: SupernetSpace, supernet: ModelConfig, *, num_random: int, seed: int, step: int
) -> dict[str, ModelConfig]:
    """The sub-networks of one optimizer step: the smallest shape, and random ones.

    The largest shape is the supernet itself and not among them.

    Args:
        space: the shapes to draw from.
        supernet: configuration of the supernet.
        num_random: number of random shapes.
        seed: of the run.
        step: number of completed optimizer steps. The shapes follow from seed and step alone, so
            that all ranks and a resumed run have the same ones.

    Returns:
        The shapes by name: `smallest`, `random_1`, `random_2`, …
    """
    generator = np.random.default_rng([seed, step])
    drawn = {f"random_{i}": space.draw(supernet, generator) for i in range(1, num_random + 1)}
    return {"smallest": space.smallest(supernet), **drawn}


def sub_network_loss(
    network: MobileLLM,
    batch: dict[str, Tensor],
    teacher: Callable[[slice], Tensor],
    *,
    distillation_weight: float,
) -> Float[Tensor, ""]:
    """Loss of a sub-network: (1 − w) × cross entropy + w × KL(largest ‖ sub-network).

    Args:
        network: the sub-network.
        batch: `input_ids` and `labels`, (batch, seq) each, and optionally `document_ids`.
        teacher: maps a range among the tokens of the batch to the logits (rows, vocab) of the
            largest shape, without gradient.
        distillation_weight: w, between 0 and 1.

    Returns:
        The mean over unmasked tokens in nats, with a gradient for the supernet's parameters.
    """
    mask = attention_mask_of(batch)
    output = network(batch["input_ids"], attention_mask=mask, logits=False)
    soft = [SoftLabels(teacher, distillation_weight)] if distillation_weight > 0 else []
    sums = chunked_losses(
        output.hidden,
        network.unembed,
        batch["labels"],
        cross_entropy_weight=1 - distillation_weight,
        terms=soft,
    )
    return sums.total / (batch["labels"] != IGNORE_INDEX).sum().clamp(min=1)


def teacher_logits(
    model: MobileLLM, hidden: Float[Tensor, "batch seq hidden"]
) -> Callable[[slice], Tensor]:
    """The logits of the largest shape by range of tokens, computed chunk by chunk.

    Args:
        model: the supernet.
        hidden: its hidden states after the final norm, for the same batch.
    """
    flat = hidden.detach().flatten(0, -2)

    @torch.no_grad()
    def logits(place: slice) -> Tensor:
        return model.unembed(flat[place])

    return logits


def training_flops(
    space: SupernetSpace, supernet: ModelConfig, *, num_random: int, sequence_length: int
) -> float:
    """Training FLOPs of a supernet per token, over all networks of a step, in the mean.

    The teacher's logits, which are computed once more for each sub-network, are included.

    Args:
        space: the shapes of the sub-networks.
        supernet: configuration of the supernet.
        num_random: random shapes per step.
        sequence_length: tokens per window.
    """

    def flops(shape: ModelConfig) -> float:
        return flops_per_token(shape, sequence_length).training

    if space.num_shapes <= SAMPLED_SHAPES:
        drawn = [shape for shape in space.shapes(supernet) if shape != supernet]
    else:
        generator = np.random.default_rng(0)
        drawn = [space.draw(supernet, generator) for _ in range(SAMPLED_SHAPES)]
    mean = float(np.mean([flops(shape) for shape in drawn]))
    teacher = 2 * supernet.vocab_size * supernet.hidden_size * (1 + num_random)
    return flops(supernet) + flops(space.smallest(supernet)) + num_random * mean + teacher
