"""Ends a trial of a search whose losses are worse than those of the other trials."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from mobilellm.search.study.records import PRUNED
from mobilellm.search.study.trial_pruning import TrialPruning
from mobilellm.training.ranks import broadcast_from_first


class PruningCallback(Callback):
    """After each validation, the first process decides from the files of the study.

    All processes of a run follow its decision, which is recorded in the run's folder: a run that is
    resumed decides as before. The search adds this callback to its trials.

    Args:
        folder: the run's folder of checkpoints, whose run belongs to a study.

    Raises:
        ValueError: the run does not belong to a study.
    """

    watches_only = True
    status_of_stopped_run = PRUNED

    def __init__(self, folder: str | Path) -> None:
        """Read the rule of the study."""
        self.pruning = TrialPruning.of_run(Path(folder).parent)
        self.stopping_reason_message: str | None = None
        """Why the run was ended; None if it was not."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """End the run at once if this was decided before it was resumed."""
        reason = self.pruning.recorded_end(pl_module.tokens) if trainer.is_global_zero else None
        self._follow(trainer, broadcast_from_first(reason))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Decide whether the run continues."""
        if pl_module.validation_result is None or pl_module.finished:
            return
        reason = None
        if trainer.is_global_zero:
            result = pl_module.validation_result
            reason = self.pruning.decide(
                pl_module.tokens,
                {"val_loss": result.loss, "val_bits_per_byte": result.bits_per_byte},
            )
        self._follow(trainer, broadcast_from_first(reason))

    def _follow(self, trainer: Any, reason: str | None) -> None:
        if reason is not None:
            self.stopping_reason_message = reason
            trainer.should_stop = True
