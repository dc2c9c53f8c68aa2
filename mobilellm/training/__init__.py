"""Training with Lightning: module, data module, trainer, loggers, checkpoints and ranks."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilellm.training.csv_logger import CSVLogger as CSVLogger
    from mobilellm.training.datamodule import TokenDataModule as TokenDataModule
    from mobilellm.training.intervals import Intervals as Intervals
    from mobilellm.training.module import LanguageModelModule as LanguageModelModule
    from mobilellm.training.tensorboard_logger import TensorBoardLogger as TensorBoardLogger
    from mobilellm.training.trainer import TrainerConfig as TrainerConfig
    from mobilellm.training.trainer import make_trainer as make_trainer
    from mobilellm.training.training_budget import TrainingBudget as TrainingBudget
    from mobilellm.training.wandb_logger import WandbLogger as WandbLogger

# Imported when they are first used: budgets and trainer settings need neither torch nor Lightning.
_MODULES = {
    "CSVLogger": "csv_logger",
    "Intervals": "intervals",
    "LanguageModelModule": "module",
    "TensorBoardLogger": "tensorboard_logger",
    "TokenDataModule": "datamodule",
    "TrainerConfig": "trainer",
    "TrainingBudget": "training_budget",
    "WandbLogger": "wandb_logger",
    "make_trainer": "trainer",
}


def __getattr__(name: str) -> Any:
    """The public names, each imported from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
