"""How well a supernet ranks shapes, judged by models that were trained alone, and what it costs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobilellm.accounting import count_parameters, flops_per_token
from mobilellm.models.config import ModelConfig
from mobilellm.models.shape_name import shape_name
from mobilellm.report.runs import Run, read_runs
from mobilellm.report.statistics.kendall import KendallTau, kendall_tau
from mobilellm.search.supernet_scores import Score
from mobilellm.search.supernet_space import SupernetSpace
from mobilellm.search.training_rate import fit_training_rate

FEWEST = 8
"""Shapes trained alone without which no rank correlation is stated."""


@dataclass(frozen=True, kw_only=True)
class RankedShape:
    """One shape with its score."""

    shape: ModelConfig
    body: int
    """Body parameters."""
    training_flops_per_token: float
    score: float
    """Validation loss of the slice, nats per token."""
    alone: float | None
    """Validation loss of the shape trained alone, the mean over seeds; None if it was not."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What training of the supernet and scoring cost, and training the ranked shapes alone."""

    supernet_flops: float
    scoring_flops: float
    alone_flops: float
    """Of all ranked shapes, each on as many tokens as the runs."""
    supernet_seconds: float
    scoring_seconds: float
    alone_seconds: float
    """Forecast from the measured times of the runs."""

    @property
    def flops_share(self) -> float:
        """FLOPs of ranking, relative to those of training the shapes alone."""
        return (self.supernet_flops + self.scoring_flops) / self.alone_flops

    @property
    def seconds_share(self) -> float:
        """The same of the seconds."""
        return (self.supernet_seconds + self.scoring_seconds) / self.alone_seconds


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The result of a ranking."""

    supernet: Run
    alone: tuple[Run, ...]
    shapes: tuple[RankedShape, ...]
    """From the lowest score to the highest."""
    tau: KendallTau
    """Of scores with losses of models trained alone."""
    baselines: Mapping[str, KendallTau]
    """The same of simpler scores: more body parameters, more FLOPs."""
    cost: Cost
    validation_tokens: int


def read_supernet(path: Path) -> tuple[Run, SupernetSpace]:
    """The finished run of a supernet, and its space.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: there is no finished run of a supernet, or there are several.
    """
    found = [run for run in read_runs([path]).finished if isinstance(run.fact("supernet"), Mapping)]
    if len(found) != 1:
        names = ", ".join(str(run.folder) for run in found[:3])
        raise ValueError(
            f"{path} has {len(found)} finished runs of a supernet{f' ({names})' if names else ''}; "
            "give the folder of one, which mobilellm train distillation=supernet … makes"
        )
    space: Any = found[0].fact("supernet.space")
    return found[0], SupernetSpace(**space)


def read_alone(paths: Sequence[Path], supernet: Run, space: SupernetSpace) -> tuple[Run, ...]:
    """The runs of shapes trained alone, after all checks.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: there are fewer than 8 shapes, or runs cannot be compared with each other or
            with the supernet; the message says which and what to do.
    """
    runs = read_runs(paths).finished
    for run in runs:
        _check_alone(run)
        if not space.contains(run.model, supernet.model):
            raise ValueError(
                f"{run.folder} has a shape that the supernet was not trained with "
                f"({shape_text(run.model)}; space: {space_text(space)}); leave the run out, or "
                "train the supernet with these sizes"
            )
    _check_equal(runs, "tokens", "give runs of one budget")
    everyone = (supernet, *runs)
    for key in ("train", "validation", "tokenizer"):
        _check_equal(everyone, f"hashes.{key}", "give runs on the text of the supernet")
    for key in ("sequence_length", "validation_tokens"):
        _check_equal(everyone, key, "give runs that were trained and validated alike")
    shapes = {run.model for run in runs}
    if len(shapes) < FEWEST:
        raise ValueError(
            f"{len(shapes)} shapes were trained alone, and a rank correlation needs at least "
            f"{FEWEST}; train more shapes of the space, or give further folders after --alone"
        )
    return runs


def _check_alone(run: Run) -> None:
    if run.fact("supernet") is not None:
        raise ValueError(f"{run.folder} is itself a supernet; give runs of single shapes")
    for key in ("init_from", "extend_from"):
        if run.setting(key) is not None:
            raise ValueError(
                f"{run.folder} started from other weights ({key}={run.setting(key)}); give runs "
                "that were trained alone from random weights"
            )


def _check_equal(runs: Sequence[Run], key: str, remedy: str) -> None:
    """Check that a fact or a setting is the same in all runs."""
    values: dict[Any, Run] = {}
    for run in runs:
        fact = run.fact(key)
        values.setdefault(run.setting(key) if fact is None else fact, run)
    if len(values) > 1:
        (first, one), (second, other) = list(values.items())[:2]
        raise ValueError(
            f"the runs differ in {key}: {first} in {one.folder}, {second} in {other.folder}; "
            f"{remedy}"
        )


def rank(
    supernet: Run, alone: Sequence[Run], scores: Sequence[Score], *, validation_tokens: int
) -> Ranking:
    """Sort the shapes by their scores and judge the order.

    Args:
        supernet: the run of the supernet.
        alone: runs of at least 8 of the scored shapes.
        scores: of all shapes.
        validation_tokens: on which each shape was scored.
    """
    losses = mean_losses(alone)
    length = supernet.sequence_length
    ranked = sorted(
        (
            RankedShape(
                shape=score.shape,
                body=count_parameters(score.shape).body,
                training_flops_per_token=flops_per_token(score.shape, length).training,
                score=score.loss,
                alone=losses.get(score.shape),
            )
            for score in scores
        ),
        key=lambda shape: shape.score,
    )
    judged = [shape for shape in ranked if shape.alone is not None]
    truth = [shape.alone or math.nan for shape in judged]
    return Ranking(
        supernet=supernet,
        alone=tuple(alone),
        shapes=tuple(ranked),
        tau=kendall_tau([shape.score for shape in judged], truth),
        baselines={
            "more body parameters": kendall_tau([-shape.body for shape in judged], truth),
            "more FLOPs": kendall_tau([-s.training_flops_per_token for s in judged], truth),
        },
        cost=_cost(supernet, alone, ranked, scores, validation_tokens),
        validation_tokens=validation_tokens,
    )


def mean_losses(runs: Sequence[Run]) -> dict[ModelConfig, float]:
    """Mean validation loss over the seeds of each shape."""
    by_shape: dict[ModelConfig, list[float]] = {}
    for run in runs:
        by_shape.setdefault(run.model, []).append(run.val_loss)
    return {shape: float(np.mean(losses)) for shape, losses in by_shape.items()}


def _cost(
    supernet: Run,
    alone: Sequence[Run],
    ranked: Sequence[RankedShape],
    scores: Sequence[Score],
    validation_tokens: int,
) -> Cost:
    tokens, length = alone[0].tokens, supernet.sequence_length
    seconds = [float(run.fact("wall_seconds")) / run.tokens for run in alone]
    rate = fit_training_rate(
        [run.model.num_layers for run in alone],
        [run.flops_per_token["training"] for run in alone],
        seconds,
    )
    forward = [flops_per_token(shape.shape, length).forward for shape in ranked]
    return Cost(
        supernet_flops=float(supernet.fact("supernet.training_flops_per_token")) * supernet.tokens,
        scoring_flops=sum(forward) * validation_tokens,
        alone_flops=sum(shape.training_flops_per_token for shape in ranked) * tokens,
        supernet_seconds=float(supernet.fact("wall_seconds")),
        scoring_seconds=sum(score.seconds for score in scores),
        alone_seconds=sum(rate.seconds_per_token(s.shape, length) for s in ranked) * tokens,
    )


def shape_text(shape: ModelConfig) -> str:
    """Sizes of a shape in short, e.g. `8×96, 288 channels, 6/2 heads`."""
    return (
        f"{shape_name(shape)}, {shape.intermediate_size} channels, "
        f"{shape.num_attention_heads}/{shape.num_key_value_heads} heads"
    )


def space_text(space: SupernetSpace) -> str:
    """The sizes of a space, e.g. `num_blocks 2, 4, 8; hidden_size 48, 96`."""
    return "; ".join(f"{k} {', '.join(map(str, v))}" for k, v in space.to_dict().items())
