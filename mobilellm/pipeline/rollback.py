"""A run whose last step went wrong goes on from its last checkpoint, on other data."""

from pathlib import Path
from typing import TYPE_CHECKING

from mobilellm.run_folder import sound_checkpoint

if TYPE_CHECKING:
    from mobilellm.pipeline.plan import Run
    from mobilellm.training.divergence import RollBack


def roll_back_run(run: "Run", rollback: "RollBack") -> Path:
    """Let the last checkpoint go on with the samples after the bad step's."""
    import torch

    from mobilellm.callbacks.loss_guard import LossGuardCallback
    from mobilellm.training.atomic_save import save_atomically
    from mobilellm.training.divergence import roll_back

    path = sound_checkpoint(run.folder)
    if path is None:
        raise FileNotFoundError(f"{run.folder} has no checkpoint to roll back to") from rollback
    state = torch.load(path, map_location="cpu", weights_only=True)
    save_atomically(roll_back(state, LossGuardCallback.__qualname__, rollback.event), path)
    return path
