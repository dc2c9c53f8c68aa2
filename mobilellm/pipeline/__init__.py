"""One training run, from its configuration to the trained model.

The functions here load torch and Lightning when they are called, so that `--help` and a process
that only starts other processes stay light.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from omegaconf import DictConfig

    from mobilellm.hydra_app.trial import Trial


def train_run(cfg: "DictConfig") -> dict[str, Any]:
    """Train one model; see `mobilellm.pipeline.train.train`."""
    from mobilellm.pipeline.train import train  # loads Lightning

    return train(cfg)


def check_run(cfg: "DictConfig") -> "Path":
    """Check a trial before its sweep starts; see `mobilellm.pipeline.sweep.check_run`."""
    from mobilellm.pipeline.sweep import check_run  # loads Lightning

    return check_run(cfg)


def check_data_folders(trials: "Sequence[Trial]") -> None:
    """Check a sweep's trials together; see `mobilellm.pipeline.sweep.check_data_folders`."""
    from mobilellm.pipeline.sweep import check_data_folders  # loads Lightning

    check_data_folders(trials)
