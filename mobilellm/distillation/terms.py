"""Compute the terms of the training loss that compare the student with its teacher."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mobilellm.distillation import ForwardKL
from mobilellm.distillation.losses.loss import DistillationLoss, LogitLoss, StateLoss, Structure
from mobilellm.distillation.losses.schedule import value_at
from mobilellm.distillation.teachers.teacher import TeacherOutput
from mobilellm.labels import IGNORE_INDEX
from mobilellm.losses.label_losses import SoftLabels
from mobilellm.losses.loss_terms import LogitTerm, LossTerm, Terms

Losses = Mapping[str, DistillationLoss]

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
    labels: Tensor,
    *,
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
        labels: (batch, seq); positions with -100 are ignored.
        student: structure of the student.
        teacher: structure of the teacher.
        progress: used share of the training budget, for scheduled weights and temperatures.
        projections: the trained maps, made by `make_projections`.
    """
    mask = labels != IGNORE_INDEX
    terms: dict[str, LossTerm | LogitTerm | SoftLabels] = {}
    for name, loss in losses.items():
        weight = value_at(loss.weight, progress)
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
