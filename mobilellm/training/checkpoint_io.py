"""Lightning's extension point for checkpoint files, with atomic writes."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from mobilellm.training.atomic_save import save_atomically


class AtomicCheckpointIO(CheckpointIO):
    """Writes checkpoints atomically; reads them with `weights_only=True`, which runs no code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to `path` atomically.

        Raises:
            OSError: it could not be written, e.g. because the disk is full; the previous checkpoint
                is kept.
        """
        save_atomically(checkpoint, Path(path))

    def load_checkpoint(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint to the CPU.

        Raises:
            FileNotFoundError: the file does not exist.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"checkpoint {path} does not exist; give the path of an existing one"
            )
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)
