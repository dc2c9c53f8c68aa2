"""Steps that went wrong change no weights: the run stops, skips them, or goes back."""

import logging
from typing import Any

from lightning.pytorch import Callback

from mobilellm.callbacks.checkpoint import CheckpointCallback
from mobilellm.ranges import Range, checked
from mobilellm.training.divergence import ACTIONS, DivergenceRule, RollBack, TrainingDiverged

logger = logging.getLogger(__name__)


class LossGuardCallback(Callback):
    """Judges each step between its gradient and its update, by values that all ranks share.

    A step is bad where its loss or the norm of its gradient is not finite, or, if asked for, its
    loss is far above the median of the last ones. Then, by `action`:

    - `stop`: the run fails, with its checkpoints as they were;
    - `skip`: weights and optimizer state stay as they are, and the run goes on with the next step;
    - `rollback`: the run goes on from the last checkpoint, with the samples after the bad step's.

    What was skipped is in the checkpoint and in summary.json. The loss is read at every step,
    which makes a GPU wait for it.

    Args:
        action: `stop`, `skip` or `rollback`.
        window: steps of the median; before there are so many, no loss counts as a spike.
        spike_factor: largest loss as a multiple of the median; None: any.
        spike_nats: largest loss above the median, nats per token; None: any.
        limit: steps skipped in a row, or rollbacks of the run, after which it is stopped.

    Raises:
        ValueError: an unknown action, a number out of range.
    """

    @checked(limit=Range(at_least=1))
    def __init__(
        self,
        *,
        action: str = "stop",
        window: int = 50,
        spike_factor: float | None = None,
        spike_nats: float | None = None,
        limit: int = 10,
    ) -> None:
        """Nothing is judged yet."""
        if action not in ACTIONS:
            raise ValueError(f"action={action!r} is not known; use one of {', '.join(ACTIONS)}")
        self.rule = DivergenceRule(window=window, spike_factor=spike_factor, spike_nats=spike_nats)
        self.action = action
        self.limit = limit
        self.recent: list[float] = []
        """Losses of the last accepted steps."""
        self.events: list[dict[str, Any]] = []
        """Bad steps so far: plain data."""
        self.in_a_row = 0
        """Steps skipped since the last accepted one."""

    def state_dict(self) -> dict[str, Any]:
        """What the next steps are judged by."""
        return {"recent": self.recent, "events": self.events, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on judging."""
        self.recent = list(state_dict["recent"])
        self.events = list(state_dict["events"])
        self.in_a_row = state_dict["in_a_row"]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """See to it that there is a checkpoint to go back to.

        Raises:
            ValueError: `rollback` without a callback that writes checkpoints.
        """
        if self.action != "rollback":
            return
        savers = [c for c in trainer.checkpoint_callbacks if isinstance(c, CheckpointCallback)]
        if not savers:
            raise ValueError(
                "callbacks.loss_guard.action=rollback goes back to the last checkpoint, and "
                "callbacks.checkpoint is off; switch it on, or use action=skip"
            )
        if trainer.global_step == 0:
            savers[0].save(trainer, pl_module)

    def should_apply(self, module: Any, loss: float, norm: float) -> bool:
        """Whether the step about to be made may change the weights; see `StepFilter`.

        Raises:
            TrainingDiverged: the run is to stop.
            RollBack: it is to go back.
        """
        reason = self.rule.find(loss, norm, self.recent)
        if reason is None:
            self.recent = [*self.recent, loss][-self.rule.window :]
            self.in_a_row = 0
            return True
        data = module.trainer.datamodule
        event = {
            "step": module.global_step + 1, "reason": reason, "action": self.action,
            "next_sample": data.consumed_samples + data.samples_per_step,
        }  # fmt: skip
        self.in_a_row += 1
        self._stop_if_due(module, event)
        if module.trainer.is_global_zero:
            logger.warning("step %d: %s; %s", event["step"], reason, self.action)
        if self.action == "rollback":
            raise RollBack(event)
        self.events = [*self.events, event | {"first_sample": data.consumed_samples}]
        return False

    def summary(self) -> dict[str, Any]:
        """The bad steps, for summary.json; nothing where there were none."""
        return {"loss_guard": self.events} if self.events else {}

    def _stop_if_due(self, module: Any, event: dict[str, Any]) -> None:
        if self.action == "stop":
            remedy = "a lower optimizer.learning_rate, or callbacks.loss_guard.action=skip"
        elif self.action == "skip" and self.in_a_row > self.limit:
            remedy = f"a lower optimizer.learning_rate: limit={self.limit} steps were skipped"
        elif self.action == "rollback" and len(self.events) >= self.limit:
            remedy = f"a lower optimizer.learning_rate: limit={self.limit} rollbacks did not help"
        else:
            return
        raise TrainingDiverged(
            f"training diverged at step {event['step']}: {event['reason']}; the step was not "
            f"applied and the run is stopped; start again with {remedy}"
        )
