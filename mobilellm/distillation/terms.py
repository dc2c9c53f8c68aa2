"""Turn the output of a teacher into terms of the training loss."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mobilellm.distillation import ForwardKL
from mobilellm.distillation.losses.loss import DistillationLoss, LogitLoss, StateLoss, Structure
from mobilellm.distillation.losses.schedule import value_at
from mobilellm.distillation.teachers.teacher import TeacherOutput
from mobilellm.losses.label_losses import IGNORE_INDEX, SoftLabels
from mobilellm.losses.loss_terms import LogitTerm, LossTerm, Terms

Losses = Mapping[str, DistillationLoss]

# Of a projection's first weights, so that they are the same on every process and after a resume.
PROJECTION_SEED = 0


def captures_of(losses: Collection[DistillationLoss]) -> tuple[str, ...]:
    """What the losses compare inside the models, each name once."""
    return tuple(dict.fromkeys(loss.capture for loss in losses if isinstance(loss, StateLoss)))


def make_projections(losses: Losses, student: Structure, teacher: Structure) -> dict[str, Any]:
    """By name of the loss, one linear map (teacher's width, student's width) per pair of layers."""
    made: dict[str, Any] = {}
    for name, loss in losses.items():
        if isinstance(loss, StateLoss) and loss.projection:
            generator = torch.Generator().manual_seed(PROJECTION_SEED)
            maps = [
                nn.Linear(student.hidden_size, teacher.hidden_size, bias=False)
                for _ in loss.pairs(student, teacher)
            ]
            for one in maps:
                nn.init.orthogonal_(one.weight, generator=generator)
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
        losses: by the name that the log shows.
        teacher_output: what the teacher gives for the same micro-batch.
        output: the student's `ModelOutput`.
        labels: (batch, seq); -100 counts for nothing.
        student: structure of the student.
        teacher: structure of the teacher.
        progress: share of the budget used up, for what is scheduled.
        projections: from `make_projections`, as they are trained.
    """
    mask = labels != IGNORE_INDEX
    terms: dict[str, LossTerm | LogitTerm | SoftLabels] = {}
    for name, loss in losses.items():
        weight = value_at(loss.weight, progress)
        if isinstance(loss, LogitLoss):
            if (
                isinstance(loss, ForwardKL)
                and teacher_output.logits is not None
                and loss.is_plain(progress)
            ):
                terms[name] = SoftLabels(teacher_output.logits, weight)
            else:
                value = _on_logits(loss, teacher_output, mask.flatten(), progress)
                # The top k keep nothing of the logits' size.
                terms[name] = LogitTerm(value, weight, 0.5 if teacher_output.logits else 1.0)
            continue
        pairs = loss.pairs(student, teacher)
        mine, theirs = output.captured[loss.capture], teacher_output.captured[loss.capture]
        maps = projections.get(name)
        value = loss(
            [mine[i] for i, _ in pairs],
            [theirs[j] for _, j in pairs],
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
