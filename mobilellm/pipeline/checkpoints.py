"""Chooses the checkpoint that a fit starts from."""

from pathlib import Path

from mobilellm.callbacks.checkpoint import CheckpointCallback
from mobilellm.callbacks.loss_guard import LossGuardCallback
from mobilellm.checkpoint_files import (
    CHECKPOINTS,
    LAST_CHECKPOINT,
    find_damage,
    latest_valid_checkpoint,
)
from mobilellm.files import write_text_atomically
from mobilellm.pipeline.run import Run
from mobilellm.run_folder import METRICS
from mobilellm.training.atomic_save import read_checkpoint, save_atomically
from mobilellm.training.divergence import RollbackRequest, rewind_past_bad_step


def first_checkpoint(run: Run) -> Path | None:
    """The last valid checkpoint of the run; None if the run starts from its initial weights.

    If the run extends another one and has no checkpoint yet, the checkpoint and the metrics of that
    run are copied first. Must be called on rank 0 only, before training. If it is interrupted, the
    next call starts again.

    Raises:
        ValueError: the checkpoints are damaged.
    """
    path = latest_valid_checkpoint(run.folder)
    if path is not None or run.extension is None:
        return path
    if (damage := find_damage(run.extension.checkpoint)) is not None:
        raise ValueError(f"checkpoint {run.extension.checkpoint} is damaged ({damage})")
    metrics = run.extension.parent / METRICS
    if metrics.exists():
        # Rows after the checkpoint are cut when training starts, as at every resume.
        write_text_atomically(run.folder / METRICS, metrics.read_text(encoding="utf-8"))
    state = read_checkpoint(run.extension.checkpoint)
    # The best checkpoint so far is in the folder of the other run.
    kept = {k: v for k, v in state["callbacks"].items() if CheckpointCallback.__qualname__ not in k}
    path = run.folder / CHECKPOINTS / LAST_CHECKPOINT
    save_atomically({**state, "callbacks": kept}, path)
    return path


def rewind_checkpoint(run: Run, request: RollbackRequest) -> Path:
    """Rewind the last checkpoint past the bad batch, and return its path.

    Raises:
        FileNotFoundError: there is no valid checkpoint.
    """
    path = latest_valid_checkpoint(run.folder)
    if path is None:
        raise FileNotFoundError(f"{run.folder} has no checkpoint to roll back to") from request
    state = read_checkpoint(path)
    save_atomically(
        rewind_past_bad_step(state, LossGuardCallback.__qualname__, request.event), path
    )
    return path
