"""Makes the parts of a run from its configuration: callbacks, loggers, model, data, module."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from torch import nn
from torch.optim import Optimizer

from mobilellm.callbacks.checkpoint import CheckpointCallback
from mobilellm.callbacks.compression import CompressionCallback
from mobilellm.callbacks.distillation import DistillationCallback
from mobilellm.callbacks.initial_loss import InitialLossCallback
from mobilellm.checkpoint_files import CHECKPOINTS
from mobilellm.data import PreparedData
from mobilellm.formats.model_folder import open_model
from mobilellm.hydra_app.configuration import instantiate
from mobilellm.hydra_app.errors import unknown_field
from mobilellm.models import MobileLLM
from mobilellm.models.initialization import initialize_
from mobilellm.models.layer_subset import layer_subset
from mobilellm.optim.schedules import Schedule
from mobilellm.pipeline.recipe import make_recipe
from mobilellm.pipeline.run import Parts, Run
from mobilellm.training.csv_logger import CSVLogger
from mobilellm.training.datamodule import TokenDataModule
from mobilellm.training.intervals import Intervals
from mobilellm.training.module import LanguageModelModule
from mobilellm.training.training_budget import TrainingBudget

# How often a run is validated if no interval is given.
VALIDATIONS_PER_RUN = 10

Config = Mapping[str, Any]


def build_parts(config: Config, folder: Path, budget: TrainingBudget, schedule: Schedule) -> Parts:
    """Build the parts that need neither weights nor data.

    Args:
        config: the resolved configuration of a run.
        folder: of the run; nothing is written to it yet.
        budget: of the run.
        schedule: of the run's learning rate.

    Raises:
        ValueError, TypeError: what a part refuses, after the key that describes the part.
    """
    optimizer = build_optimizer(config["optimizer"])
    compression = _build_compression(config["compression"])
    distillation: Callback | None = _build_group(config, "distillation")
    with named_errors("compression"):
        starts = None if compression is None else compression.starts(budget)
    callbacks: list[Callback] = [part for part in (compression, distillation) if part is not None]
    callbacks += _build_members(config, "callbacks", folder / CHECKPOINTS)
    # A validation before the first step shows what given weights know, unless only a few of their
    # layers are used, or they are compressed first: compression then measures them by itself.
    is_compressed_first = starts is not None and starts[0] == 0
    if config["init_from"] and config["init_layers"] is None and not is_compressed_first:
        origin = f"init_from={config['init_from']}"
        callbacks.append(InitialLossCallback(origin, config["model"]["vocab_size"]))
    # A later stage begins with the last checkpoint.
    has_checkpoints = any(isinstance(callback, CheckpointCallback) for callback in callbacks)
    if starts is not None and starts[-1] > 0 and not has_checkpoints:
        callbacks.append(
            CheckpointCallback(folder / CHECKPOINTS, every_seconds=None, keep_best=False)
        )
    return Parts(
        optimizer=optimizer,
        schedule=schedule,
        compression=compression,
        distillation=distillation if isinstance(distillation, DistillationCallback) else None,
        callbacks=tuple(callbacks),
        loggers=(CSVLogger(folder), *_build_members(config, "logger", folder)),
    )


def build_optimizer(node: Config) -> Callable[[nn.Module], Optimizer]:
    """The function that makes the optimizer of a model.

    Raises:
        ValueError: there is no learning rate, or the node describes an optimizer without a model.
    """
    if "learning_rate" not in node:
        raise ValueError(
            "optimizer.learning_rate is required and not given; set optimizer.learning_rate=…"
        )
    make = instantiate(node)
    if not callable(make) or isinstance(make, Optimizer):
        raise ValueError("optimizer must be made from the model; set optimizer._partial_=true")
    return make  # pyright: ignore[reportReturnType]


def build_schedule(node: Config) -> Schedule:
    """The schedule that a node describes.

    Raises:
        ValueError: it is not a function.
    """
    schedule = instantiate(node)
    if not callable(schedule):
        raise ValueError("schedule must be a function of step and progress; use schedule=cosine")
    return schedule  # pyright: ignore[reportReturnType]


def _build_compression(node: Config) -> CompressionCallback | None:
    if not node:
        return None
    recipe, settings = make_recipe(node)
    return CompressionCallback(recipe, **asdict(settings))


def _build_group(config: Config, group: str) -> Any:
    """What a group describes; its errors begin with the group's name."""
    return instantiate({group: config[group] or None})[group]


def _build_members(config: Config, group: str, folder: Path) -> list[Any]:
    """All members of a group that are not null; those with `_partial_: true` get the folder."""
    nodes = {name: node for name, node in config[group].items() if node is not None}
    members = []
    for name, member in instantiate({group: nodes})[group].items():
        if not isinstance(member, partial):
            members.append(member)
            continue
        check = getattr(member.func, "check", None)
        if check is not None:
            check(**member.keywords)
        with named_errors(f"{group}.{name}", nodes[name]["_target_"]):
            members.append(member(folder=folder))
    return members


@contextmanager
def named_errors(key: str, target: str = "") -> Iterator[None]:
    """Put the key that describes a part in front of the errors that the part raises.

    Args:
        key: of the configuration, e.g. `callbacks.checkpoint`.
        target: the `_target_` there, if a misspelt field is to be answered with the known ones.
    """
    try:
        yield
    except TypeError as error:
        message = str(unknown_field(error, target)).rpartition("() ")[2]
        raise ValueError(f"{key}: {message}") from error
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def make_model(run: Run) -> MobileLLM:
    """The model with its initial weights: read from `init_from`, or drawn with the run's seed."""
    if run.config["init_from"] is not None:
        model, layers = open_model(run.config["init_from"])[0], run.config["init_layers"]
        return model if layers is None else layer_subset(model, layers)
    model = MobileLLM(run.model)
    initialize_(model, seed=run.config["seed"], **run.config["initialization"])
    return model


def make_data(run: Run, prepared: PreparedData, micro_batch_size: int) -> TokenDataModule:
    """The Lightning data module; the seed decides the order of its windows."""
    return TokenDataModule(
        prepared,
        sequence_length=run.config["sequence_length"],
        micro_batch_size=micro_batch_size,
        samples_per_step=run.samples_per_step,
        seed=run.config["seed"],
        validation_tokens=run.config["validation_tokens"],
        document_mask=run.data.document_mask,
    )


def make_module(run: Run, model: MobileLLM) -> LanguageModelModule:
    """The Lightning module that trains `model`."""
    interval, total = run.config["validation_interval_tokens"], run.budget.total_steps
    if interval is not None:
        validation_steps = max(1, round(interval / run.config["tokens_per_step"]))
    else:
        validation_steps = None if total is None else max(1, total // VALIDATIONS_PER_RUN)
    return LanguageModelModule(
        model,
        optimizer=run.parts.optimizer,
        schedule=run.parts.schedule,
        budget=run.budget,
        gradient_clip_norm=run.config["gradient_clip_norm"],
        intervals=Intervals(
            log_steps=run.config["log_interval_steps"], validation_steps=validation_steps
        ),
        compile=run.trainer.compile,
        activation_checkpointing=run.trainer.activation_checkpointing,
    )
