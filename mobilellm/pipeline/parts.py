"""Builds the parts of a run from its configuration: callbacks, loggers, model, data, module."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from torch import nn
from torch.optim import Optimizer

from mobilellm.callbacks.adapter import AdapterCallback
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
from mobilellm.optim.parametrization import Parametrization
from mobilellm.optim.schedules import Schedule
from mobilellm.pipeline.adapted_config import configured_adapter
from mobilellm.pipeline.parametrization import build_parametrization
from mobilellm.pipeline.recipe import make_recipe
from mobilellm.pipeline.run import Parts, Run
from mobilellm.run_settings import Config
from mobilellm.training.csv_logger import CSVLogger
from mobilellm.training.datamodule import TokenDataModule
from mobilellm.training.intervals import Intervals
from mobilellm.training.module import LanguageModelModule
from mobilellm.training.training_budget import TrainingBudget

# How often a run is validated if no interval is given.
VALIDATIONS_PER_RUN = 10


def build_parts(config: Config, folder: Path, budget: TrainingBudget, schedule: Schedule) -> Parts:
    """Build the parts that need neither weights nor data.

    Args:
        config: the resolved configuration of a run.
        folder: the run's folder; nothing is written to it yet.
        budget: the run's training budget.
        schedule: the run's learning-rate schedule.

    Raises:
        ValueError, TypeError: a part cannot be built; the message begins with its key.
    """
    parametrization = build_parametrization(config)
    optimizer = build_optimizer(config["optimizer"], parametrization)
    compression = _build_compression(config["compression"])
    distillation: Callback | None = _build_group(config, "distillation")
    adapter = _build_adapter(config)
    with named_errors("compression"):
        starts = None if compression is None else compression.starts(budget)
    parts: tuple[Callback | None, ...] = (compression, distillation, adapter)
    callbacks = [part for part in parts if part is not None]
    callbacks += _build_members(config, "callbacks", folder / CHECKPOINTS)
    # Given weights are validated before the first step. This says nothing if only some of their
    # layers are used, and compression before the first step measures the loss itself.
    is_compressed_first = starts is not None and starts[0] == 0
    if config["init_from"] and config["init_layers"] is None and not is_compressed_first:
        origin = f"init_from={config['init_from']}"
        callbacks.append(InitialLossCallback(origin, config["model"]["vocab_size"]))
    # A later stage resumes from the last checkpoint.
    has_checkpoints = any(isinstance(callback, CheckpointCallback) for callback in callbacks)
    if starts is not None and starts[-1] > 0 and not has_checkpoints:
        callbacks.append(
            CheckpointCallback(folder / CHECKPOINTS, every_seconds=None, keep_best=False)
        )
    return Parts(
        optimizer=optimizer,
        schedule=schedule,
        parametrization=parametrization,
        compression=compression,
        distillation=distillation if isinstance(distillation, DistillationCallback) else None,
        adapter=adapter,
        callbacks=tuple(callbacks),
        loggers=(CSVLogger(folder), *_build_members(config, "logger", folder)),
    )


def build_optimizer(
    node: Config, parametrization: Parametrization | None
) -> Callable[[nn.Module], Optimizer]:
    """The function that builds the optimizer for a model.

    Raises:
        ValueError: the learning rate is missing, the node does not describe such a function, or a
            parametrisation cannot scale its settings.
    """
    if "learning_rate" not in node:
        raise ValueError(
            "optimizer.learning_rate is required and not given; set optimizer.learning_rate=…"
        )
    make = instantiate(node)
    if not callable(make) or isinstance(make, Optimizer):
        raise ValueError("optimizer must be a function of the model; set optimizer._partial_=true")
    if parametrization is not None:
        if "parametrization" not in inspect.signature(make).parameters:
            raise ValueError(
                f"optimizer._target_={node['_target_']} takes no parametrization, which sets the "
                "learning rate of each parameter; use optimizer=adamw or muon, or "
                "parametrization=standard"
            )
        make = partial(make, parametrization=parametrization)
    return make  # pyright: ignore[reportReturnType]


def build_schedule(node: Config) -> Schedule:
    """The learning-rate schedule that a node describes.

    Raises:
        ValueError: the node does not describe a function.
    """
    schedule = instantiate(node)
    if not callable(schedule):
        raise ValueError("schedule must be a function of step and progress; try schedule=cosine")
    return schedule  # pyright: ignore[reportReturnType]


def _build_compression(node: Config) -> CompressionCallback | None:
    if not node:
        return None
    recipe, settings = make_recipe(node)
    return CompressionCallback(recipe, **asdict(settings))


def _build_adapter(config: Config) -> AdapterCallback | None:
    """The adapter of a run; None if it trains all weights."""
    found = configured_adapter(config)
    return None if found is None else AdapterCallback(found, seed=config["seed"])


def _build_group(config: Config, group: str) -> Any:
    """Build the object that a group describes; error messages begin with the group's name."""
    return instantiate({group: config[group] or None})[group]


def _build_members(config: Config, group: str, folder: Path) -> list[Any]:
    """Build all members of a group that are not null; `_partial_: true` passes them the folder."""
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
    """Prefix the errors that a part raises with the key of the part in the configuration.

    Args:
        key: the key, e.g. `callbacks.checkpoint`.
        target: the `_target_` of the part; if it is given, an error about an unknown field lists
            the known fields.
    """
    try:
        yield
    except TypeError as error:
        message = str(unknown_field(error, target)).rpartition("() ")[2]
        raise ValueError(f"{key}: {message}") from error
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def make_model(run: Run) -> MobileLLM:
    """The model with its initial weights: read from `init_from`, or drawn with the run's seed.

    If the run has an adapter, the model has it too, and its own weights are frozen.
    """
    if run.config["init_from"] is not None:
        model, layers = open_model(run.config["init_from"])[0], run.config["init_layers"]
        model = model if layers is None else layer_subset(model, layers)
        adapter = run.parts.adapter
        return model if adapter is None else adapter.adapt(model)
    model, parametrization = MobileLLM(run.model), run.parts.parametrization
    scale = None if parametrization is None else parametrization.initial_scale(run.model)
    initialize_(model, seed=run.config["seed"], scale=scale, **run.config["initialization"])
    return model


def make_data(run: Run, prepared: PreparedData, micro_batch_size: int) -> TokenDataModule:
    """The Lightning data module; the run's seed determines the order of the windows."""
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
        execution=run.trainer.execution,
    )
