"""Compute the terms of the training loss that compare the student with its teacher."""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mobilellm.distillation import ForwardKL
from mobilellm.distillation.losses.direct_preference import DirectPreference
from mobilellm.distillation.losses.loss import LogitLoss, StateLoss, Structure
from mobilellm.distillation.losses.schedule import value_at
from mobilellm.distillation.teachers.teacher import TeacherOutput
from mobilellm.labels import ANSWER_LABELS, IGNORE_INDEX
from mobilellm.losses.answers import pair_loss, reference_sums
from mobilellm.losses.chunked import Unembed
from mobilellm.losses.label_losses import SoftLabels
from mobilellm.losses.loss_terms import LogitTerm, LossTerm, PairTerm, Terms

DistillationLoss = LogitLoss | StateLoss | DirectPreference
Losses = Mapping[str, DistillationLoss]
Batch = dict[str, Tensor]

# Seed of the initial weights of projections, which must be the same on every rank.
PROJECTION_SEED = 0


def required_captures(losses: Collection[DistillationLoss]) -> tuple[str, ...]:
    """Names of the tensors inside the models that the losses compare, without duplicates."""
    return tuple(dict.fromkeys(loss.capture for loss in losses if isinstance(loss, StateLoss)))


def make_projections(losses: Losses, student: Structure, teacher: Structure) -> dict[str, Any]:
    """Make the linear maps from the student's width to the teacher's, one per pair of layers.

    Returns:
        The maps of each loss with `projection`, as a `ModuleList`, by the name of the loss.
    """
    made: dict[str, Any] = {}
    for name, loss in losses.items():
        if isinstance(loss, StateLoss) and loss.projection:
            generator = torch.Generator().manual_seed(PROJECTION_SEED)
            maps = [
                nn.Linear(student.hidden_size, teacher.hidden_size, bias=False)
                for _ in loss.pairs(student, teacher)
            ]
            for linear in maps:
                nn.init.orthogonal_(linear.weight, generator=generator)
            made[name] = nn.ModuleList(maps)
    return made


def distillation_terms(
    losses: Losses,
    teacher_output: TeacherOutput,
    output: Any,
    batch: Batch,
    *,
    unembed: Unembed,
    student: Structure,
    teacher: Structure,
    progress: float,
    projections: Mapping[str, Any],
) -> Terms:
    """The terms of one micro-batch.

    Args:
        losses: the losses, by their names in the log.
        teacher_output: the teacher's output for the same micro-batch.
        output: the student's `ModelOutput`.
        batch: the micro-batch; positions whose label is -100 are ignored.
        unembed: the student's head.
        student: structure of the student.
        teacher: structure of the teacher.
        progress: used share of the training budget, for scheduled weights and temperatures.
        projections: the trained maps, made by `make_projections`.

    Raises:
        ValueError: a loss on pairs of answers has no pairs, or not all probabilities.
    """
    mask = batch["labels"] != IGNORE_INDEX
    terms: dict[str, LossTerm | LogitTerm | PairTerm | SoftLabels] = {}
    for name, loss in losses.items():
        weight = value_at(loss.weight, progress)
        if isinstance(loss, DirectPreference):
            if ANSWER_LABELS not in batch or teacher_output.logits is None:
                raise ValueError(
                    f"losses.{name} needs pairs of answers (data=preferences), and a teacher with "
                    "the probabilities of all tokens"
                )
            reference = reference_sums(teacher_output.logits, batch)
            value = pair_loss(output.hidden, unembed, batch, partial(loss, reference=reference))
            terms[name] = PairTerm(value, weight)
            continue
        if isinstance(loss, LogitLoss):
            if (
                isinstance(loss, ForwardKL)
                and teacher_output.logits is not None
                and loss.has_temperature_one(progress)
            ):
                terms[name] = SoftLabels(teacher_output.logits, weight)
            else:
                value = _on_logits(loss, teacher_output, mask.flatten(), progress)
                # A loss on top-k probabilities keeps no tensor of the logits' size for backward.
                terms[name] = LogitTerm(value, weight, 0.5 if teacher_output.logits else 1.0)
            continue
        pairs = loss.pairs(student, teacher)
        own, target = output.captured[loss.capture], teacher_output.captured[loss.capture]
        maps = projections.get(name)
        value = loss(
            [own[i] for i, _ in pairs],
            [target[j] for _, j in pairs],
            mask,
            None if maps is None else lambda index, states, maps=maps: maps[index](states),
        )
        terms[name] = LossTerm(value, weight)
    return terms


def _on_logits(
    loss: LogitLoss, teacher_output: TeacherOutput, mask: Tensor, progress: float
) -> Any:
    temperature = value_at(loss.temperature, progress)

    def value(logits: Tensor, place: slice) -> Tensor:
        return loss(logits, teacher_output.target(place, temperature), mask[place], progress)

    return value
