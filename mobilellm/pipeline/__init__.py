"""One run from configuration to trained model. Heavy packages are imported where they are used."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from omegaconf import DictConfig

    from mobilellm.hydra_app.trial import Trial


def train(cfg: "DictConfig") -> dict[str, Any]:
    """Train one model; see `mobilellm.pipeline.run.train`."""
    from mobilellm.pipeline.run import train

    return train(cfg)


def check_run(cfg: "DictConfig") -> "Path":
    """Check a run without starting it; see `mobilellm.pipeline.plan.check_run`."""
    from mobilellm.pipeline.plan import check_run

    return check_run(cfg)


def check_data_folders(trials: "Sequence[Trial]") -> None:
    """Check a sweep's trials together; see `mobilellm.pipeline.sweep_data.check_data_folders`."""
    from mobilellm.pipeline.sweep_data import check_data_folders

    check_data_folders(trials)
