"""Losses that went wrong, and checkpoints that go on behind the data they went wrong on."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm.ranges import Range, check_fields

ACTIONS = ("stop", "skip", "rollback")
# Key of the data's place in a checkpoint: Lightning's name for our data module's state.
DATA = "TokenDataModule"


class TrainingDiverged(ValueError):
    """A step's loss or gradient is not one that training can go on with."""


class RollBack(Exception):
    """Asks to go on from the last checkpoint, with the samples after those of this step.

    Args:
        event: what happened: plain data.
    """

    def __init__(self, event: dict[str, Any]) -> None:
        """Remember why."""
        super().__init__(f"step {event['step']}: {event['reason']}")
        self.event = event


@dataclass(frozen=True, kw_only=True)
class DivergenceRule:
    """When a step counts as diverged: a value that is not finite always; a spike if asked for.

    Raises:
        ValueError: a number out of range.
    """

    window: int = 50
    """Accepted steps whose median loss a step is compared with; before there are so many, none."""
    spike_factor: float | None = None
    """Largest loss as a multiple of the median; None: not compared so."""
    spike_nats: float | None = None
    """Largest loss above the median, nats per token; None: not compared so."""

    def __post_init__(self) -> None:
        """Check."""
        remedy = "null: not compared so"
        check_fields(
            self,
            window=Range(at_least=1, cap=1_000_000),
            spike_factor=Range(above=1, remedy=remedy),
            spike_nats=Range(above=0, remedy=remedy),
        )

    def find(self, loss: float, norm: float, recent: Sequence[float]) -> str | None:
        """What is wrong with a step, None where nothing is.

        Args:
            loss: nats per token, over the whole step.
            norm: of its whole gradient.
            recent: losses of the last `window` accepted steps, or of all where there were fewer.
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


def roll_back(checkpoint: Mapping[str, Any], guard: str, event: Mapping[str, Any]) -> Any:
    """The checkpoint that goes on with the samples after those of a bad step.

    Weights, optimizer, step and tokens are the checkpoint's. The samples between its place in the
    data and the end of the bad step are never trained on.

    Args:
        checkpoint: the last one before the bad step; left as it is.
        guard: key of the guard's state in it.
        event: what happened; `next_sample` is the first one after the bad step.
    """
    place = checkpoint[DATA]["consumed_samples"]
    state = checkpoint["callbacks"][guard]
    note = {**event, "to_step": checkpoint["progress"]["step"], "first_sample": place}
    return {
        **checkpoint,
        DATA: {**checkpoint[DATA], "consumed_samples": event["next_sample"]},
        "callbacks": {
            **checkpoint["callbacks"], guard: {**state, "events": [*state["events"], note]}
        },
    }  # fmt: skip
