"""Training with Lightning: module, data module, trainer, loggers, checkpoints and ranks."""

from typing import TYPE_CHECKING, Any

from mobilellm.public_names import import_public_name

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

# Imported when first used, because budgets and trainer settings need neither torch nor Lightning.
_MODULES = {
    "CSVLogger": "mobilellm.training.csv_logger",
    "Intervals": "mobilellm.training.intervals",
    "LanguageModelModule": "mobilellm.training.module",
    "TensorBoardLogger": "mobilellm.training.tensorboard_logger",
    "TokenDataModule": "mobilellm.training.datamodule",
    "TrainerConfig": "mobilellm.training.trainer",
    "TrainingBudget": "mobilellm.training.training_budget",
    "WandbLogger": "mobilellm.training.wandb_logger",
    "make_trainer": "mobilellm.training.trainer",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first used."""
    return import_public_name(__name__, name, _MODULES)
