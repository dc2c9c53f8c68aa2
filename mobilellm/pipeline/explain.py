"""Prints the cost of models as tables or JSON, from composed configurations, without torch."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from mobilellm.accounting.explain import ASSUMED_RATES, explain_model, explain_training
from mobilellm.accounting.scaling import forecast_scaling
from mobilellm.accounting.table import ladder_table, model_table, scaling_table
from mobilellm.cli.console import make_console
from mobilellm.formats.model_folder import open_config
from mobilellm.hydra_app.configuration import instantiate, plain_config
from mobilellm.hydra_app.root_keys import checked_config
from mobilellm.models import ModelConfig
from mobilellm.models.config import check_choice
from mobilellm.models.layer_subset import subset_config
from mobilellm.pipeline.adapted_config import adapted_config
from mobilellm.pipeline.token_budget import MAX_TOKENS, derived_tokens
from mobilellm.ranges import Range, check_value
from mobilellm.run_settings import DERIVED_LIMITS
from mobilellm.search.matching import matched_facts
from mobilellm.strict_json import to_json

Facts = dict[str, Any]

GPUS = Range(at_least=1, cap=1e12)


class Explanations:
    """Collects the models of a command: one, or those of a sweep."""

    def __init__(self) -> None:
        """Start empty."""
        self._explained: list[Facts] = []
        self._names: list[str] = []
        self._format = "table"

    def add(self, config: DictConfig) -> None:
        """Explain the model of one composed configuration.

        Raises:
            ValueError: the configuration or the model is not valid.
        """
        overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
        self._explained.append(explain_config(config, overrides))
        self._format = config.format
        self._names.append(" ".join(overrides))

    def show(self) -> None:
        """Print one line of JSON per model, a table of a single model, or one table of several."""
        if not self._explained:
            return
        if self._format == "json":
            for one in self._explained:
                sys.stdout.write(to_json(one, indent=None) + "\n")
            return
        console = make_console(160)
        if len(self._explained) == 1:
            names = [""]
            console.print(model_table(self._explained[0]))
        else:
            names = _differing(self._names)
            console.print(ladder_table(self._explained, names))
        if all("scaling" in one for one in self._explained):
            console.print(scaling_table(self._explained, names))


def explain_config(config: DictConfig, overrides: Sequence[str] = ()) -> Facts:
    """Explain one composed configuration of conf/explain.yaml.

    Args:
        config: the composed configuration.
        overrides: the overrides of the command line that it was composed with.

    Raises:
        FileNotFoundError: `init_from` is not the folder of a model.
        ValueError: the configuration is not valid, or a model is given besides `init_from`.
    """
    config = checked_config("explain", config)
    check_value("scaling.num_gpus", _plain(config.scaling.num_gpus), int | list[int], GPUS)
    check_value("scaling.tokens_per_step", config.scaling.tokens_per_step, int, GPUS)
    limits = plain_config(config)
    plain = _explained_model(config, overrides)
    model = adapted_config(limits, plain)
    if model is not plain and config.trainer.strategy == "fsdp":
        raise ValueError(
            "adapter: trainer=fsdp cannot be combined with an adapter; use trainer=ddp, or "
            "adapter=none"
        )
    _check_one_limit(limits)
    explained = explain_model(model, config.sequence_length) | explain_training(
        model,
        config.sequence_length,
        micro_batch_size=config.micro_batch_size,
        max_tokens=derived_tokens(limits, plain) or config.max_tokens,
        flops_per_second=config.flops_per_second,
        optimizer=_optimizer(config),
        **_devices(config.trainer),
    )
    if config.scaling.num_gpus != []:
        explained["scaling"] = _scaling(config, model)
    if "budget" in config.model and config.init_from is None:
        explained["budget"] = matched_facts(config.model, plain)
    return explained


def _check_one_limit(config: Facts) -> None:
    given = [f"{name}={config[name]:g}" for name in (MAX_TOKENS, *DERIVED_LIMITS)
             if config[name] is not None]  # fmt: skip
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} both set the training tokens; keep one of them")


def _plain(value: object) -> object:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _scaling(config: DictConfig, model: ModelConfig) -> Facts:
    """Forecasts for the GPUs of a cluster; they do not depend on this machine."""
    asked, trainer = config.scaling, config.trainer
    cluster = instantiate(asked.cluster)
    if config.flops_per_second is not None:
        cluster = replace(cluster, flops_per_second=float(config.flops_per_second))
    assumed = {
        "strategy": "fsdp" if trainer.strategy == "fsdp" else "ddp",
        "precision": "bf16-mixed" if trainer.precision == "auto" else trainer.precision,
        "activation_checkpointing": trainer.activation_checkpointing,
    }
    steps = forecast_scaling(
        model,
        [asked.num_gpus] if isinstance(asked.num_gpus, int) else list(asked.num_gpus),
        tokens_per_step=asked.tokens_per_step,
        sequence_length=config.sequence_length,
        micro_batch_size=config.micro_batch_size,
        optimizer=_optimizer(config),
        cluster=cluster,
        **assumed,
    )
    return assumed | {"cluster": asdict(cluster), "steps": [asdict(step) for step in steps]}


def _optimizer(config: DictConfig) -> str:
    return config.optimizer["_target_"].rpartition(".")[2]


def _explained_model(config: DictConfig, overrides: Sequence[str]) -> ModelConfig:
    """The architecture that `model` describes, or that of the saved model in `init_from`."""
    if config.init_from is None:
        return instantiate(config.model)
    asked = [o for o in overrides if o.lstrip("+").startswith(("model=", "model."))]
    saved = open_config(config.init_from)
    if config.init_layers is not None:
        saved = subset_config(saved, list(config.init_layers))
    if asked and instantiate(config.model) != saved:
        raise ValueError(
            f"init_from={config.init_from} brings its own architecture, which differs from "
            f"{', '.join(asked)}; leave out model=…, or explain that model without init_from"
        )
    return saved


def _devices(trainer: DictConfig) -> Facts:
    """The devices of the trainer, as arguments of `explain_training`; initialises no GPU."""
    instantiate(trainer)  # its own checks
    check_choice("trainer.accelerator", trainer.accelerator, ("auto", *ASSUMED_RATES))
    accelerator, precision = trainer.accelerator, trainer.precision
    if accelerator == "auto":
        accelerator = "cuda" if Path("/dev/nvidia0").exists() else "cpu"
    if precision == "auto":
        precision = "bf16-mixed" if accelerator == "cuda" else "32-true"
    devices = 1 if trainer.devices == "auto" else trainer.devices
    num_devices = devices * trainer.num_nodes
    return {
        "accelerator": accelerator,
        "precision": precision,
        "num_devices": num_devices,
        "num_shards": num_devices if trainer.strategy == "fsdp" else 1,
        "activation_checkpointing": trainer.activation_checkpointing,
    }


def _differing(names: list[str]) -> list[str]:
    """The overrides in which the rows differ, shortened to the last part of each key."""
    rows = [name.split(" ") for name in names]
    common = set(rows[0]).intersection(*rows[1:])
    return [
        " ".join(one.rpartition(".")[2] if "=" in one.rpartition(".")[2] else one
                 for one in row if one not in common)
        for row in rows
    ]  # fmt: skip
