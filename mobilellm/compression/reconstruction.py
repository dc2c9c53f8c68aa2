"""Reconstruction of blocks, and self-distillation, after a method has compressed a model."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from mobilellm.compression.apply import working_copy
from mobilellm.compression.progress import log_progress
from mobilellm.compression.recipe import Batch
from mobilellm.compression.refinement import RefinedLoss, Refinement, refine
from mobilellm.compression.residual_stream import ResidualStream
from mobilellm.labels import IGNORE_INDEX
from mobilellm.losses.chunked import SoftLabels, chunked_losses
from mobilellm.models import MobileLLM
from mobilellm.models.attention_mask import attention_mask_of

# All weights of a model together take smaller steps than those of one block.
DEFAULTS = {
    "reconstruction": Refinement(steps=200, learning_rate=0.02),
    "self_distillation": Refinement(steps=100, learning_rate=0.002),
}

Settings = Refinement | Mapping[str, Any] | None
"""Gradient steps in the settings of a recipe: a mapping has some of the keys, an empty one none."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Refinements:
    """What is done with a compressed model on the calibration text, without labels.

    Source: Li et al. 2021, BRECQ, arXiv:2102.05426 (reconstruction block by block).
    """

    reconstruction: Refinement | None = None
    """Bring the output of each compressed block, given its input in the compressed model, closer to
    the output of the dense block in the dense model."""
    self_distillation: Refinement | None = None
    """Then bring the next-token distribution of the compressed model closer to that of the dense
    model, by the forward KL divergence."""

    @classmethod
    def of_recipe(cls, fit: str, reconstruction: Settings, self_distillation: Settings) -> Self:
        """The gradient steps that the settings of a recipe ask for.

        Raises:
            ValueError: a key is unknown, a number is out of range, or `reconstruction` is given for
                another fit than `reconstructed`.
        """
        if fit == "reconstructed":
            reconstruction = {} if reconstruction is None else reconstruction
        elif reconstruction is not None:
            raise ValueError(
                f"reconstruction has no effect on fit={fit}; use fit=reconstructed, or "
                "reconstruction=null"
            )
        return cls(
            reconstruction=_parsed("reconstruction", reconstruction),
            self_distillation=_parsed("self_distillation", self_distillation),
        )

    def check(self, model: MobileLLM) -> None:
        """Check that the blocks of `model` can be reconstructed.

        Raises:
            ValueError: blocks share keys and values, and so do not run separately.
        """
        if self.reconstruction is not None and not ResidualStream.supports(model):
            raise ValueError(
                "fit=reconstructed runs the blocks one at a time, but with share_kv=first they use "
                "the keys and values of other layers; use another fit"
            )

    def check_calibration(self, calibration: Sequence[Batch]) -> None:
        """Check that there is text for the steps and text that is held out.

        Raises:
            ValueError: there are fewer than two batches.
        """
        for settings in (self.reconstruction, self.self_distillation):
            if settings is not None:
                settings.divided(len(calibration))

    def apply(
        self,
        dense: MobileLLM,
        compressed: MobileLLM,
        calibration: Sequence[Batch],
        blocks: Sequence[int],
        *,
        whole: MobileLLM | None = None,
    ) -> tuple[MobileLLM, dict[str, RefinedLoss]]:
        """Refine a compressed model.

        Args:
            dense: the model before compression, the teacher of the self-distillation.
            compressed: is not changed.
            calibration: batches of `input_ids` and `labels`, each (batch, seq).
            blocks: indices of the blocks of `compressed` with compressed matrices.
            whole: the dense model without the blocks that `compressed` does not have; default:
                `dense`.

        Returns:
            The model, and for each reconstructed block (by its name) and for the self-distillation
            (`self_distillation`) the loss on held-out calibration text, before and after.

        Raises:
            ValueError: there are fewer than two batches.
        """
        if self.reconstruction is None and self.self_distillation is None:
            return compressed, {}
        dense, model = working_copy(dense), working_copy(compressed)
        losses: dict[str, RefinedLoss] = {}
        if self.reconstruction is not None:
            goal = dense if whole is None else working_copy(whole)
            losses |= reconstruct_blocks_(goal, model, calibration, blocks, self.reconstruction)
        if self.self_distillation is not None:
            name, settings = "self_distillation", self.self_distillation
            losses[name] = distill_itself_(dense, model, calibration, settings)
        for name, loss in losses.items():
            logger.info("%s: %.4f before, %.4f after, held-out", name, loss.before, loss.after)
        return model.requires_grad_(True).train(compressed.training), losses


def _parsed(name: str, value: Settings) -> Refinement | None:
    """The settings with the defaults of their kind.

    Raises:
        ValueError: a key is unknown, or a number is out of range.
    """
    if value is None or isinstance(value, Refinement):
        return value
    try:
        return replace(DEFAULTS[name], **value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}: {error}; it has steps, learning_rate, held_out and seed"
        ) from error


def reconstruct_blocks_(
    dense: MobileLLM,
    model: MobileLLM,
    calibration: Sequence[Batch],
    blocks: Sequence[int],
    settings: Refinement,
) -> dict[str, RefinedLoss]:
    """Reconstruct the given blocks in place, in the order of their first application.

    The loss is the squared distance of the outputs relative to the squared length of what the dense
    block adds to the residual stream. If a block runs several times, the outputs are those of its
    last application, and all layers from its first application on are run.

    Args:
        dense: the model before compression, without gradients.
        model: has the same blocks; without gradients.
        calibration: batches of `input_ids`.
        blocks: indices of the blocks whose parameters are changed.
        settings: of the steps.

    Returns:
        Losses by the name of the block, e.g. `blocks.1`.

    Raises:
        ValueError: there are fewer than two batches, or blocks share keys and values.
    """
    streams = {model: ResidualStream(calibration), dense: ResidualStream(calibration)}
    order = [block for block in dict.fromkeys(model.config.layer_order) if block in set(blocks)]
    losses: dict[str, RefinedLoss] = {}
    for block in log_progress(order, "blocks reconstructed"):
        for one, stream in streams.items():
            stream.move_to(block, one)
        with torch.no_grad():
            goals = [streams[dense].run(dense, number) for number in range(len(calibration))]
        lengths = [
            float((goal - streams[dense].inputs(number)).square().sum())
            for number, goal in enumerate(goals)
        ]
        parameters = list(model.blocks[block].parameters())
        for parameter in parameters:
            parameter.requires_grad_(True)
        losses[f"blocks.{block}"] = refine(
            parameters,
            _distance(streams[model], model, goals, lengths),
            len(calibration),
            settings,
        )
        model.requires_grad_(False)
    return losses


def _distance(
    stream: ResidualStream, model: MobileLLM, goals: Sequence[Tensor], lengths: Sequence[float]
) -> Callable[[int], Tensor]:
    def loss(number: int) -> Tensor:
        error = stream.run(model, number) - goals[number]
        return error.square().sum() / max(lengths[number], 1e-30)

    return loss


def distill_itself_(
    dense: MobileLLM, model: MobileLLM, calibration: Sequence[Batch], settings: Refinement
) -> RefinedLoss:
    """Train all parameters of the compressed model in place, with the dense one as teacher.

    Args:
        dense: the model before compression, without gradients.
        model: the compressed model.
        calibration: batches of `input_ids` and `labels`.
        settings: of the steps.

    Returns:
        KL(dense ‖ compressed) in nats per token.

    Raises:
        ValueError: there are fewer than two batches.
    """
    device = next(model.parameters()).device

    def loss(number: int) -> Tensor:
        batch = {key: value.to(device) for key, value in calibration[number].items()}
        ids, mask = batch["input_ids"], attention_mask_of(batch)
        with torch.no_grad():
            goal = dense(ids, attention_mask=mask, logits=False).hidden.flatten(0, 1)
        output = model(ids, attention_mask=mask, logits=False)
        soft = SoftLabels(logits=lambda place: dense.unembed(goal[place]))
        sums = chunked_losses(
            output.hidden, model.unembed, batch["labels"], cross_entropy_weight=0.0, terms=[soft]
        )
        return sums.total / (batch["labels"] != IGNORE_INDEX).sum()

    model.requires_grad_(True)
    refined = refine(list(model.parameters()), loss, len(calibration), settings)
    model.requires_grad_(False)
    return refined
