"""Detect diverged steps, and rewind a checkpoint past the bad batch."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm.ranges import Range, check_fields

ACTIONS = ("stop", "skip", "rollback")
# Key of the data module's state in a checkpoint, for which Lightning uses the name of the class.
DATA = "TokenDataModule"


class TrainingDiverged(ValueError):
    """Training cannot continue, because the loss or the gradient of a step has diverged."""


class RollbackRequest(Exception):
    """Raised to continue from the last checkpoint with the samples after those of the bad step.

    Args:
        event: description of the bad step, as plain data.
    """

    def __init__(self, event: dict[str, Any]) -> None:
        """Keep the description."""
        super().__init__(f"step {event['step']}: {event['reason']}")
        self.event = event


@dataclass(frozen=True, kw_only=True)
class DivergenceRule:
    """Decides whether a step has diverged.

    A step whose loss or gradient norm is not finite has always diverged. Spikes of the loss are
    checked only if `spike_factor` or `spike_nats` is set.

    Raises:
        ValueError: a number is out of range.
    """

    window: int = 50
    """The loss is compared with the median of this many accepted steps. Spikes are not checked
    until there are as many."""
    spike_factor: float | None = None
    """Largest loss as a multiple of the median; None disables the check."""
    spike_nats: float | None = None
    """Largest excess of the loss over the median, in nats per token; None disables the check."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        remedy = "null disables the check"
        check_fields(
            self,
            window=Range(at_least=1, cap=1_000_000),
            spike_factor=Range(above=1, remedy=remedy),
            spike_nats=Range(above=0, remedy=remedy),
        )

    @property
    def checks_spikes(self) -> bool:
        """Whether a finite loss can be bad."""
        return self.spike_factor is not None or self.spike_nats is not None

    def reason(self, loss: float, norm: float, recent: Sequence[float]) -> str | None:
        """The reason why a step has diverged; None if it has not.

        Args:
            loss: loss of the whole step, in nats per token.
            norm: norm of the whole gradient.
            recent: losses of the last `window` accepted steps, or of all if there were fewer.
        """
        if not math.isfinite(loss):
            return f"train/loss is {loss}"
        if not math.isfinite(norm):
            return f"the gradient's norm is {norm} at train/loss {loss:.4g}"
        if len(recent) < self.window:
            return None
        median = statistics.median(recent)
        limits = (
            math.inf if self.spike_factor is None else median * self.spike_factor,
            math.inf if self.spike_nats is None else median + self.spike_nats,
        )
        if loss > min(limits):
            return f"train/loss {loss:.4g} is far above {median:.4g}, the median of {self.window}"
        return None


def rewind_past_bad_step(
    checkpoint: Mapping[str, Any], guard: str, event: Mapping[str, Any]
) -> Any:
    """Change the position of a checkpoint in the data to the first sample after the bad step.

    Weights, optimizer, step and tokens do not change. The samples between the former position and
    the end of the bad step are skipped.

    Args:
        checkpoint: the last checkpoint before the bad step; it is not modified.
        guard: key of the state of the `LossGuardCallback` in the checkpoint.
        event: description of the bad step; `next_sample` is the first sample after it.
    """
    position = checkpoint[DATA]["consumed_samples"]
    state = checkpoint["callbacks"][guard]
    note = {**event, "to_step": checkpoint["progress"]["step"], "first_sample": position}
    return {
        **checkpoint,
        DATA: {**checkpoint[DATA], "consumed_samples": event["next_sample"]},
        "callbacks": {
            **checkpoint["callbacks"], guard: {**state, "events": [*state["events"], note]}
        },
    }  # fmt: skip
