"""Refuse diverged optimizer steps: the run stops, skips the step, or rolls back."""

import logging
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback
from torch import Tensor

from mobilellm.callbacks.checkpoint import CheckpointCallback
from mobilellm.ranges import Range, checked
from mobilellm.training.device_divergence import DeviceJudge
from mobilellm.training.divergence import ACTIONS, DivergenceRule, RollbackRequest, TrainingDiverged

logger = logging.getLogger(__name__)


class _Step(NamedTuple):
    """What the record of a bad step says of it, apart from its loss."""

    number: int
    """Counted from 1."""
    first_sample: int
    next_sample: int
    is_first_rank: bool


class LossGuardCallback(Callback):
    """Checks the loss and the gradient of each step before its update, equally on all ranks.

    A step is bad if its loss or the norm of its gradient is not finite, or if a spike limit is set
    and its loss exceeds the median of the recent losses by more than that. `action` determines
    what follows:

    - `stop`: the run fails, and its checkpoints do not change;
    - `skip`: weights and optimizer state do not change, and the run continues with the next step;
    - `rollback`: the run continues from the last checkpoint, with the samples after the bad step.

    Bad steps are recorded in the checkpoint and in summary.json. On an NVIDIA GPU, the steps are
    judged there, and the host reads what was decided whenever metrics or a checkpoint are written:
    the run then ends or rolls back as if it had done so at the bad step, because the steps after it
    were refused too.

    Args:
        action: `stop`, `skip` or `rollback`.
        window: number of losses in the median; spikes are not checked until there are as many.
        spike_factor: largest loss as a multiple of the median; None disables the check.
        spike_nats: largest excess over the median, in nats per token; None disables the check.
        limit: the run is stopped after this many consecutive skipped steps, or rollbacks in total.

    Raises:
        ValueError: the action is unknown, or a number is out of range.
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
        """Check and keep the settings."""
        if action not in ACTIONS:
            raise ValueError(f"action={action!r} is not known; use one of {', '.join(ACTIONS)}")
        self.rule = DivergenceRule(window=window, spike_factor=spike_factor, spike_nats=spike_nats)
        self.action = action
        self.limit = limit
        self.recent: list[float] = []
        """Losses of the most recent accepted steps."""
        self.events: list[dict[str, Any]] = []
        """The bad steps so far, as plain data."""
        self.consecutive_skips = 0
        """Steps skipped since the last accepted step."""
        self._judge: DeviceJudge | None = None
        self._unread: list[tuple[_Step, Tensor]] = []
        """The steps judged on the device and not read yet, each with loss and norm (2,)."""

    def state_dict(self) -> dict[str, Any]:
        """The recent losses and the bad steps; reads those on the device before."""
        self.settle()
        return {"recent": self.recent, "events": self.events, "in_a_row": self.consecutive_skips}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the recent losses and the bad steps."""
        self.recent = list(state_dict["recent"])
        self.events = list(state_dict["events"])
        self.consecutive_skips = state_dict["in_a_row"]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make sure that there is a checkpoint to roll back to.

        Raises:
            ValueError: the action is `rollback`, but no callback writes checkpoints.
        """
        self._judge, self._unread = None, []
        if self.action != "rollback":
            return
        savers = [c for c in trainer.checkpoint_callbacks if isinstance(c, CheckpointCallback)]
        if not savers:
            raise ValueError(
                "callbacks.loss_guard.action=rollback needs checkpoints, but "
                "callbacks.checkpoint is disabled; enable it, or use action=skip"
            )
        if trainer.global_step == 0:
            savers[0].save(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Read the last steps."""
        self.settle()

    def should_apply(self, module: Any, loss: float, norm: float) -> bool:
        """Whether the current step may change the weights; see `StepFilter`.

        Raises:
            TrainingDiverged: the run has to stop.
            RollbackRequest: the run has to continue from the last checkpoint.
        """
        return self._accepts(_step_of(module), loss, norm)

    def refuse_on_device(self, module: Any, loss: Tensor, norm: Tensor) -> Tensor:
        """Whether the current step may not change the weights; see `DeviceStepFilter`."""
        if self._judge is None:
            self._judge = DeviceJudge(
                self.rule, action=self.action, limit=self.limit, recent=self.recent,
                skips=self.consecutive_skips, device=loss.device,
            )  # fmt: skip
        self._unread.append((_step_of(module), torch.stack([loss.double(), norm.double()])))
        return self._judge.refuses(loss, norm)

    def settle(self) -> None:
        """Read the steps that were judged on the device, and record the bad ones.

        Raises:
            TrainingDiverged: the run has to stop.
            RollbackRequest: the run has to continue from the last checkpoint.
        """
        if not self._unread:
            return
        steps, values = zip(*self._unread, strict=True)
        self._unread = []
        for step, (loss, norm) in zip(steps, torch.stack(values).tolist(), strict=True):
            self._accepts(step, loss, norm)

    def _accepts(self, step: "_Step", loss: float, norm: float) -> bool:
        """Whether a step may change the weights; records it, and raises if the run has to end."""
        reason = self.rule.reason(loss, norm, self.recent)
        if reason is None:
            self.recent = [*self.recent, loss][-self.rule.window :]
            self.consecutive_skips = 0
            return True
        event = {
            "step": step.number, "reason": reason, "action": self.action,
            "next_sample": step.next_sample,
        }  # fmt: skip
        self.consecutive_skips += 1
        self._stop_if_due(event)
        if step.is_first_rank:
            logger.warning("step %d: %s; %s", event["step"], reason, self.action)
        if self.action == "rollback":
            raise RollbackRequest(event)
        self.events = [*self.events, event | {"first_sample": step.first_sample}]
        return False

    def summary(self) -> dict[str, Any]:
        """The bad steps, for summary.json; empty if there were none."""
        return {"loss_guard": self.events} if self.events else {}

    def _stop_if_due(self, event: dict[str, Any]) -> None:
        if self.action == "stop":
            remedy = "a lower optimizer.learning_rate, or callbacks.loss_guard.action=skip"
        elif self.action == "skip" and self.consecutive_skips > self.limit:
            remedy = f"a lower optimizer.learning_rate: limit={self.limit} steps were skipped"
        elif self.action == "rollback" and len(self.events) >= self.limit:
            remedy = f"a lower optimizer.learning_rate: limit={self.limit} rollbacks did not help"
        else:
            return
        raise TrainingDiverged(
            f"training diverged at step {event['step']}: {event['reason']}; the step was not "
            f"applied and the run is stopped; start again with {remedy}"
        )


def _step_of(module: Any) -> _Step:
    """The step that is in progress."""
    data = module.trainer.datamodule
    first = data.consumed_samples
    return _Step(
        module.global_step + 1, first, first + data.samples_per_step, module.trainer.is_global_zero
    )
