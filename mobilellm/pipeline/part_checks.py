"""Parts of a run that are made late are tried out early, before any data are read.

An optimizer needs the model, a callback or logger the run's folder: their settings would be looked
at only then, after minutes of preparing data.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mobilellm.hydra_app.configuration import instantiate
from mobilellm.hydra_app.errors import unknown_field
from mobilellm.models import ModelConfig
from mobilellm.training.training_budget import TrainingBudget


def check_parts(config: Mapping[str, Any], model: ModelConfig, budget: TrainingBudget) -> None:
    """Build initialization, optimizer, schedule, callbacks and loggers, and throw them away.

    Args:
        config: the resolved configuration.
        model: the run's.
        budget: the run's.

    Raises:
        ValueError, TypeError: what they refuse, with their names in front.
    """
    _check_initialization(config["initialization"])
    _check_optimizer(config["optimizer"], model)
    _check_schedule(config["schedule"], budget)
    folder = Path(config["output_dir"])
    for name, item in _instantiated(config, "callbacks").items():
        if isinstance(item, partial):
            target = config["callbacks"][name]["_target_"]
            _named(f"callbacks.{name}", partial(item, folder=folder), target)
    for name, item in _instantiated(config, "logger").items():
        check = getattr(getattr(item, "func", None), "check", None)
        if check is not None:
            check(**item.keywords)
        if isinstance(item, partial):
            target = config["logger"][name]["_target_"]
            _named(f"logger.{name}", partial(item, folder=folder), target)


def check_windows(config: Mapping[str, Any], model: ModelConfig) -> None:
    """Check that windows, steps and micro-batches divide each other and fit the model.

    Raises:
        ValueError: they do not; with the nearest numbers that do.
    """
    length, per_step = config["sequence_length"], config["tokens_per_step"]
    if length > model.max_position_embeddings:
        raise ValueError(
            f"sequence_length={length} must be between 1 and the model's context, "
            f"max_position_embeddings={model.max_position_embeddings}; use a shorter one, or "
            "raise model.max_position_embeddings"
        )
    if per_step < length or per_step % length:
        below = max(1, per_step // length) * length
        raise ValueError(
            f"tokens_per_step={per_step} must be a multiple of sequence_length={length}; use "
            f"{below} or {below + length}"
        )
    validation = config["validation_tokens"]
    if validation is not None and validation < length:
        raise ValueError(
            f"validation_tokens={validation:g} must be at least one window, sequence_length="
            f"{length}; null: all of the split"
        )
    micro = config["micro_batch_size"]
    samples = per_step // length
    if micro != "auto" and (not isinstance(micro, int) or micro < 1 or samples % micro):
        divisors = [n for n in range(1, min(samples, 4096) + 1) if samples % n == 0]
        raise ValueError(
            f"micro_batch_size={micro} must be auto or divide the {samples} windows of a step "
            f"(tokens_per_step / sequence_length); use one of {divisors}"
        )


def check_targets(config: Mapping[str, Any]) -> None:
    """Check that everything that is switched on in the open groups says what it is.

    Raises:
        ValueError: settings without a class that takes them.
    """
    for group in ("compression", "distillation"):
        _check_target(group, config[group] or None, f"choose {group}=…")
    for group in ("callbacks", "logger"):
        for name, node in config[group].items():
            _check_target(f"{group}.{name}", node, f"choose {group}=… with {name} in it")


def _check_target(key: str, node: Any, remedy: str) -> None:
    if node is None:
        return
    if not isinstance(node, Mapping):
        raise ValueError(f"{key}={node!r} is no setting; give {key}._target_, or null")
    if "_target_" not in node:
        raise ValueError(
            f"{key} has settings ({', '.join(map(str, node))}) but no _target_ that takes them; "
            f"{remedy}, or leave the settings out"
        )


def _instantiated(config: Mapping[str, Any], group: str) -> dict[str, Any]:
    nodes = {name: node for name, node in config[group].items() if node is not None}
    return instantiate({group: nodes})[group]


def _check_initialization(options: Mapping[str, Any]) -> None:
    from mobilellm.models.initialization import check_initialization

    _named("initialization", partial(check_initialization, **options))


def _check_optimizer(node: Mapping[str, Any], model: ModelConfig) -> None:
    """Make it for a model without memory; groups and options are as in training."""
    import torch

    from mobilellm.models import MobileLLM

    if "learning_rate" not in node:
        raise ValueError(
            "optimizer.learning_rate is required and not given; set optimizer.learning_rate=…"
        )
    make = instantiate(node)
    if not callable(make) or isinstance(make, torch.optim.Optimizer):
        raise ValueError(
            "optimizer must take the model once there is one; set optimizer._partial_=true"
        )
    with torch.device("meta"):
        _named("optimizer", partial(make, MobileLLM(model)), node["_target_"])


def _check_schedule(node: Mapping[str, Any], budget: TrainingBudget) -> None:
    schedule = instantiate(node)
    if not callable(schedule):
        raise ValueError("schedule must be a function of step and progress; use schedule=cosine")
    steps, total = node.get("warmup_steps"), budget.total_steps
    if steps is not None and total is not None and steps > total:
        raise ValueError(
            f"schedule.warmup_steps={steps} must be at most the run's {total} steps, or the rate "
            "never comes near its peak; use fewer, or warmup_steps=null with warmup_fraction"
        )


def _named(path: str, build: partial[Any], target: str = "") -> None:
    """Build a part; what it refuses begins with the key that describes it."""
    try:
        build()
    except TypeError as error:
        message = str(unknown_field(error, target)).rpartition("() ")[2]
        raise ValueError(f"{path}: {message}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
