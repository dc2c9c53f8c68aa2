"""Write the checkpoints of a run: last.ckpt, previous.ckpt, best.ckpt and plateau.ckpt."""

import logging
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Checkpoint

from mobilellm.checkpoint_files import LAST_CHECKPOINT, PLATEAU_CHECKPOINT
from mobilellm.files import remove_temporary_files
from mobilellm.ranges import Range, checked
from mobilellm.training.atomic_save import link_or_copy
from mobilellm.training.background_writer import BackgroundWriter
from mobilellm.training.checkpoint_io import AtomicCheckpointIO
from mobilellm.training.plateau import leaves_plateau
from mobilellm.training.ranks import flag_of_first

logger = logging.getLogger(__name__)

BEST_CHECKPOINT = "best.ckpt"


class CheckpointCallback(Checkpoint):
    """Keeps the last state, the best state, and the state before the learning rate decays.

    `last.ckpt` is written at each validation, at the end, on request (`save`) and at regular
    intervals; `previous.ckpt` is the former `last.ckpt`. `best.ckpt` is written when a validation
    loss is the lowest so far. `plateau.ckpt` is written before the first step in which the learning
    rate decays (`schedule=wsd`): a run can be extended from there. Each file is replaced
    atomically, after it has been read back. The loggers are flushed before, so that metrics.csv
    includes all steps up to the checkpoint.

    Args:
        folder: folder of the files, by convention `<run folder>/checkpoints`.
        every_seconds: wall time between two writes of `last.ckpt`; None disables it.
        every_steps: optimizer steps between two writes of `last.ckpt`; None disables it.
        keep_best: whether to write `best.ckpt`.
        keep_plateau: whether to write `plateau.ckpt`.
        background: whether training continues while a file is written and read back, from a copy in
            the memory of the host; None: on GPUs. One file is written at a time, the run ends after
            the last one, and an error ends the run.

    Raises:
        ValueError: an interval is not above 0.
    """

    watches_only = True

    @checked(
        every_seconds=Range(above=0, remedy="null disables it"),
        every_steps=Range(at_least=1, remedy="null disables it"),
    )
    def __init__(
        self,
        folder: str | Path,
        *,
        every_seconds: float | None = 300.0,
        every_steps: int | None = None,
        keep_best: bool = True,
        keep_plateau: bool = True,
        background: bool | None = None,
    ) -> None:
        """Keep the settings; nothing is written yet."""
        self.folder = Path(folder)
        self.every_seconds = every_seconds
        self.every_steps = every_steps
        self.keep_best = keep_best
        self.keep_plateau = keep_plateau
        self.background = background
        self.best_loss = math.inf
        self.saved_step: int | None = None
        """Optimizer steps completed when this process last wrote `last.ckpt`."""
        self._saved_at = time.monotonic()
        self._io = AtomicCheckpointIO()

    @property
    def last_path(self) -> Path:
        """The file to resume from."""
        return self.folder / LAST_CHECKPOINT

    @property
    def best_path(self) -> Path:
        """The state with the lowest validation loss."""
        return self.folder / BEST_CHECKPOINT

    def state_dict(self) -> dict[str, Any]:
        """The lowest validation loss so far."""
        return {"best_loss": self.best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the lowest validation loss."""
        self.best_loss = state_dict["best_loss"]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the intervals; the state that the run resumed from is already on disk.

        Raises:
            ValueError: `background` is set, but the trainer does not write with our plugin.
        """
        self._open(trainer.strategy)
        if trainer.is_global_zero:
            remove_temporary_files(self.folder)
        self._saved_at = time.monotonic()
        self.saved_step = trainer.global_step or None
        plateau = self.folder / PLATEAU_CHECKPOINT
        if self.saved_step and not plateau.exists() and self._leaves_plateau(pl_module):
            # The process was killed between the writes of the two files.
            self._keep_plateau(trainer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Save if an interval has passed; runs after validation.

        Raises:
            OSError: a file could not be written, now or since the last step.
        """
        if self._io.writer is not None:
            self._io.writer.check()
        step = trainer.global_step
        validated = pl_module.validation_step == step
        due = self.every_steps is not None and step % self.every_steps == 0
        if validated or due or trainer.should_stop or self._time_is_up():
            self.save(trainer, pl_module)
        if self._leaves_plateau(pl_module):
            self.save(trainer, pl_module)
            self._keep_plateau(trainer)
        if trainer.should_stop:
            # Before the callbacks say that everything is saved.
            self._io.settle()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Wait for the last file.

        Raises:
            OSError: it could not be written.
        """
        self._io.settle()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Wait for the last file, from which the run will continue; log its error if it failed."""
        try:
            self._io.settle()
        except OSError as error:
            if error is not exception:
                logger.error("%s", error)

    def _open(self, strategy: Any) -> None:
        """Write through the trainer's extension point, in the background if this is wanted.

        Raises:
            ValueError: `background` is set, but the trainer does not write with our plugin.
        """
        io = strategy.checkpoint_io
        if isinstance(io, AtomicCheckpointIO):
            self._io = io
            is_on_gpu = strategy.root_device.type not in ("cpu", "mps")
            wanted = is_on_gpu if self.background is None else self.background
            io.writer = BackgroundWriter() if wanted else None
        elif self.background:
            raise ValueError(
                f"background=true needs plugins=[AtomicCheckpointIO()], but the trainer has "
                f"{type(io).__name__}; add it, or use background=null"
            )

    def _leaves_plateau(self, module: Any) -> bool:
        return self.keep_plateau and leaves_plateau(module)

    def _keep_plateau(self, trainer: Any) -> None:
        if trainer.is_global_zero:
            self._link(self.folder / PLATEAU_CHECKPOINT)

    def _link(self, path: Path) -> None:
        self._io.run_after_save(partial(link_or_copy, self.last_path, path))

    def save(self, trainer: Any, pl_module: Any) -> Path:
        """Write the current state, at most once per step; must be called on all ranks.

        Raises:
            OSError: the state could not be written; the previous checkpoint is kept.
        """
        step = trainer.global_step
        if self.saved_step == step:
            return self.last_path
        result = pl_module.validation_result
        is_best = (
            self.keep_best and pl_module.validation_step == step and result.loss < self.best_loss
        )
        if is_best:
            self.best_loss = result.loss
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.last_path)
        if is_best and trainer.is_global_zero:
            self._link(self.best_path)
        self.saved_step = step
        self._saved_at = time.monotonic()
        return self.last_path

    def _time_is_up(self) -> bool:
        """Whether `every_seconds` have passed by the clock of rank 0; the same on all ranks."""
        if self.every_seconds is None:
            return False
        return flag_of_first(time.monotonic() - self._saved_at >= self.every_seconds)
