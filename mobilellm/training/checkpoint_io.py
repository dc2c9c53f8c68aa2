"""Lightning's extension point for checkpoint files, with atomic writes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import CheckpointIO

from mobilellm.training.atomic_save import read_checkpoint, save_atomically
from mobilellm.training.background_writer import BackgroundWriter, host_copy


class AtomicCheckpointIO(CheckpointIO):
    """Writes checkpoints atomically; reads them with `weights_only=True`, which runs no code."""

    def __init__(self) -> None:
        """Write in the calling thread until `writer` is set."""
        self.writer: BackgroundWriter | None = None
        """Writes the files from a copy, while training continues; None: training waits."""

    def run_after_save(self, task: Callable[[], Any]) -> None:
        """Run a task after the last checkpoint was written, in the thread that writes it.

        Raises:
            Exception: the error of the task or, if the thread has ended, of an earlier one.
        """
        if self.writer is None:
            task()
        else:
            self.writer.add(task)

    def settle(self) -> None:
        """Wait until all files are written.

        Raises:
            OSError: a file could not be written; see `save_checkpoint`.
        """
        if self.writer is not None:
            self.writer.wait()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to `path` atomically.

        Raises:
            OSError: it could not be written, e.g. because the disk is full; the previous checkpoint
                is kept. With a writer, it is raised by the next call or by `settle`.
        """
        if self.writer is None:
            save_atomically(checkpoint, Path(path))
        else:
            # One in flight, so that there is at most one copy in memory.
            self.writer.wait()
            self.writer.add(partial(save_atomically, host_copy(checkpoint), Path(path)))

    def load_checkpoint(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint to the CPU.

        Raises:
            FileNotFoundError: the file does not exist.
        """
        self.settle()
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"checkpoint {path} does not exist; give the path of an existing one"
            )
        return read_checkpoint(Path(path), map_location=map_location or "cpu")

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint."""
        self.settle()
        Path(path).unlink(missing_ok=True)
