"""A run's callbacks and loggers."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.hydra_app.configuration import instantiate
from mobilellm.pipeline.compression import make_compression
from mobilellm.pipeline.distillation import build as build_distillation
from mobilellm.pipeline.plan import Run
from mobilellm.run_folder import CHECKPOINTS

if TYPE_CHECKING:
    from mobilellm.callbacks.compression import CompressionCallback


def make_callbacks(run: Run) -> list[Any]:
    """Compression, distillation, then the rest; a partial one is told where checkpoints go."""
    compression = make_compression(run.config)
    compressing = [] if compression is None else [compression]
    others = [instantiate(node) for node in run.config["callbacks"].values() if node is not None]
    built = [*compressing, *build_distillation(run), *others, *_initial_loss(run, compression)]
    folder = run.folder / CHECKPOINTS
    callbacks = [item(folder=folder) if isinstance(item, partial) else item for item in built]
    if compression is not None and compression.starts(run.budget)[-1] > 0:
        return _with_checkpoints(callbacks, folder)
    return callbacks


def _initial_loss(run: Run, compression: "CompressionCallback | None") -> list[Any]:
    """Where weights are given, a look at what they know.

    Not where the first validation is not theirs: of a few layers, or after compression, which has
    a look of its own.
    """
    starts_with_it = compression is not None and compression.starts(run.budget)[0] == 0
    if run.config["init_from"] is None or run.config["init_layers"] is not None or starts_with_it:
        return []
    from mobilellm.callbacks.initial_loss import InitialLossCallback

    return [InitialLossCallback(f"init_from={run.config['init_from']}", run.model.vocab_size)]


def _with_checkpoints(callbacks: list[Any], folder: Path) -> list[Any]:
    """With a checkpoint callback, where none is on: a stage begins with the last checkpoint."""
    from mobilellm.callbacks.checkpoint import CheckpointCallback

    if any(isinstance(callback, CheckpointCallback) for callback in callbacks):
        return callbacks
    return [*callbacks, CheckpointCallback(folder, every_seconds=None, keep_best=False)]


def make_loggers(run: Run) -> list[Any]:
    """metrics.csv always, and what conf/logger adds; those are told the run's folder."""
    from mobilellm.training.csv_logger import CSVLogger

    others = [instantiate(node) for node in run.config["logger"].values() if node]
    return [
        CSVLogger(run.folder),
        *(item(folder=run.folder) if isinstance(item, partial) else item for item in others),
    ]
