"""One training run, from its configuration to the trained model.

The functions here load torch and Lightning when they are called, so that `--help` and a process
that only starts other processes stay light.
"""

from typing import TYPE_CHECKING, Any

from mobilellm.training.lightning_import import import_lightning

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from omegaconf import DictConfig

    from mobilellm.distillation.logit_store.store import LogitStore
    from mobilellm.hydra_app.trial import Trial
    from mobilellm.pipeline.compress_report import CompressionReport
    from mobilellm.pipeline.extract import Extraction
    from mobilellm.search.coordinate_check import Measurement


def train_run(cfg: "DictConfig") -> dict[str, Any]:
    """Train one model; see `mobilellm.pipeline.train.train`."""
    import_lightning()
    from mobilellm.pipeline.train import train  # loads Lightning

    return train(cfg)


def check_run(cfg: "DictConfig") -> "Path":
    """Check a trial before its sweep starts; see `mobilellm.pipeline.sweep.check_run`."""
    import_lightning()
    from mobilellm.pipeline.sweep import check_run  # loads Lightning

    return check_run(cfg)


def check_data_folders(trials: "Sequence[Trial]") -> None:
    """Check a sweep's trials together; see `mobilellm.pipeline.sweep.check_data_folders`."""
    import_lightning()
    from mobilellm.pipeline.sweep import check_data_folders  # loads Lightning

    check_data_folders(trials)


def forecast_sweep(trials: "Sequence[Trial]", *, max_hours: float | None, is_dry_run: bool) -> None:
    """Forecast a sweep; see `mobilellm.pipeline.sweep_forecast.forecast_sweep`."""
    import_lightning()
    from mobilellm.pipeline.sweep_forecast import forecast_sweep  # loads Lightning

    forecast_sweep(trials, max_hours=max_hours, is_dry_run=is_dry_run)


def compress_saved(cfg: "DictConfig", *, folder: "Path", out: "Path") -> "CompressionReport":
    """Compress a saved model; see `mobilellm.pipeline.compress.compress_folder`."""
    from mobilellm.pipeline.compress import compress_folder  # loads torch

    return compress_folder(cfg, folder=folder, out=out)


def extract_saved(cfg: "DictConfig", *, folder: "Path", out: "Path") -> "Extraction":
    """Extract a smaller model; see `mobilellm.pipeline.extract.extract_folder`."""
    from mobilellm.pipeline.extract import extract_folder  # loads torch

    return extract_folder(cfg, folder=folder, out=out)


def store_logits(cfg: "DictConfig", *, folder: str) -> "LogitStore":
    """Store a teacher's logits; see `mobilellm.pipeline.prepare_logits.prepare_logits`."""
    from mobilellm.pipeline.prepare_logits import prepare_logits  # loads torch

    return prepare_logits(cfg, folder=folder)


def check_coordinates(cfg: "DictConfig") -> "list[Measurement]":
    """Check activations; see `mobilellm.pipeline.coordinate_check.check_coordinates`."""
    import_lightning()
    from mobilellm.pipeline.coordinate_check import check_coordinates  # loads Lightning

    return check_coordinates(cfg)


def search_shapes(cfg: "DictConfig") -> None:
    """Search for shapes; see `mobilellm.pipeline.search.command.search`."""
    from mobilellm.pipeline.search.command import search  # loads torch

    search(cfg)


def run_rank() -> int:
    """Train as one rank of several, which `rank_processes` starts, and return the exit code."""
    import_lightning()
    from mobilellm.pipeline.rank import main  # loads Lightning

    return main()
