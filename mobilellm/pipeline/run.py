"""A planned run: its checked configuration, and its parts, each built once."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.optim import Optimizer

from mobilellm.accounting.training_memory import OPTIMIZERS
from mobilellm.callbacks.adapter import AdapterCallback
from mobilellm.callbacks.compression import CompressionCallback
from mobilellm.callbacks.distillation import DistillationCallback
from mobilellm.data import DataConfig
from mobilellm.models import ModelConfig
from mobilellm.optim.parametrization import Parametrization
from mobilellm.optim.schedules import Schedule
from mobilellm.pipeline.extension import Extension
from mobilellm.pipeline.recipe_rule import RuleChoice
from mobilellm.run_folder import is_finished
from mobilellm.training.trainer import TrainerConfig
from mobilellm.training.training_budget import TrainingBudget


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The objects that take part in training, built from the configuration, without weights."""

    optimizer: Callable[[nn.Module], Optimizer]
    """Builds the optimizer for a model."""
    schedule: Schedule
    """Maps (step, progress) to the factor by which the learning rate is multiplied."""
    parametrization: Parametrization | None
    """Scales settings from a base shape to that of the model; None: they are used as they are."""
    compression: CompressionCallback | None
    distillation: DistillationCallback | None
    adapter: AdapterCallback | None
    callbacks: tuple[Callback, ...]
    """All callbacks in Lightning's order, compression, distillation and adapter among them."""
    loggers: tuple[Logger, ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A checked configuration and the parts that were built from it."""

    config: dict[str, Any]
    """The whole resolved configuration."""
    overrides: tuple[str, ...]
    """The overrides of the command line, as they were typed."""
    folder: Path
    """The folder that all files of the run are written to."""
    identity: str
    """Hash of the settings that may change the result."""
    model: ModelConfig
    data: DataConfig
    trainer: TrainerConfig
    budget: TrainingBudget
    parts: Parts
    resume: bool
    """Whether an unfinished run may be continued."""
    is_sweep: bool
    """Whether the run is one trial of a sweep."""
    extension: Extension | None = None
    """The finished run that this run continues with a larger budget; None if there is none."""
    rule_choice: RuleChoice | None = None
    """What the recipe rule has chosen; None if no setting was `auto`."""
    changes: tuple[str, ...] = ()
    """If an unfinished run is resumed: one line per setting that differs from its first start."""

    @property
    def samples_per_step(self) -> int:
        """Windows per optimizer step, over all devices."""
        return self.config["tokens_per_step"] // self.config["sequence_length"]

    @property
    def learning_rate(self) -> float:
        """The peak learning rate as configured."""
        return float(self.config["optimizer"]["learning_rate"])

    @property
    def optimizer_name(self) -> str:
        """One of `OPTIMIZERS`, which the memory forecast depends on; `adamw` for any other."""
        name = self.config["optimizer"]["_target_"].rpartition(".")[2]
        return name if name in OPTIMIZERS else "adamw"

    @property
    def trained_model(self) -> ModelConfig:
        """The configuration of the model that is trained: with adapters, if the run has them."""
        adapter = self.parts.adapter
        return self.model if adapter is None else adapter.adapter.configured(self.model)

    def is_finished(self) -> bool:
        """Whether the folder holds the finished run."""
        return is_finished(self.folder)
