"""Learning-rate schedules as pure functions of the progress of a run.

A schedule maps (step, progress) to a factor of the peak learning rate. `step` is the index of the
optimizer step, from 0; `progress` is the share of the budget (tokens, steps or seconds) that is
used after that step, so that the last step has progress 1. Schedules have no state, so that a
resumed run has nothing to restore.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from mobilellm.ranges import Range, checked

Schedule = Callable[[int, float], float]
SHARE = Range(at_least=0, at_most=1)
STEPS = Range(at_least=0, remedy="0 turns the warm-up off")


@checked(warmup_steps=STEPS, warmup_fraction=SHARE, final_fraction=SHARE)
def cosine(
    *,
    warmup_steps: int | None = None,
    warmup_fraction: float | None = None,
    final_fraction: float = 0.1,
) -> Schedule:
    """Linear warm-up to 1, then cosine decay to `final_fraction` at the end of the budget.

    Args:
        warmup_steps: number of optimizer steps of the warm-up; the last of them is at the peak.
        warmup_fraction: length of the warm-up as a share of the budget; give at most one of the
            two.
        final_fraction: factor of the last step.

    Raises:
        ValueError: both lengths of the warm-up are given, or a value is out of range.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5 without restarts.
    """
    warmup = _Warmup(warmup_steps, warmup_fraction)

    def factor(step: int, progress: float) -> float:
        height = 0.5 * (1.0 + math.cos(math.pi * warmup.share_of_rest(step, progress)))
        falling = final_fraction + (1.0 - final_fraction) * height
        return min(warmup.factor(step, progress), falling)

    return factor


@checked(warmup_steps=STEPS, warmup_fraction=SHARE, decay_fraction=SHARE, final_fraction=SHARE)
def warmup_stable_decay(
    *,
    warmup_steps: int | None = None,
    warmup_fraction: float | None = None,
    decay_fraction: float = 0.2,
    final_fraction: float = 0.0,
) -> Schedule:
    """Linear warm-up, a plateau at the peak, and linear decay to `final_fraction` at the end.

    Args:
        warmup_steps: number of optimizer steps of the warm-up; the last of them is at the peak.
        warmup_fraction: length of the warm-up as a share of the budget; give at most one of the
            two.
        decay_fraction: length of the decay as a share of the budget.
        final_fraction: factor of the last step.

    Raises:
        ValueError: both lengths of the warm-up are given, or a value is out of range.

    Source: Hu et al. 2024, MiniCPM, arXiv:2404.06395, section 4.
    """
    warmup = _Warmup(warmup_steps, warmup_fraction)

    def is_decaying(progress: float) -> bool:
        return 1.0 - min(progress, 1.0) < decay_fraction

    def factor(step: int, progress: float) -> float:
        falling = 1.0
        if is_decaying(progress):
            height = (1.0 - min(progress, 1.0)) / decay_fraction
            falling = final_fraction + (1.0 - final_fraction) * height
        return min(warmup.factor(step, progress), falling)

    return WithPlateau(factor, is_decaying)


@checked(warmup_steps=STEPS, warmup_fraction=SHARE)
def constant(*, warmup_steps: int | None = None, warmup_fraction: float | None = None) -> Schedule:
    """Linear warm-up, then a constant learning rate.

    Args:
        warmup_steps: number of optimizer steps of the warm-up; the last of them is at the peak.
        warmup_fraction: length of the warm-up as a share of the budget; give at most one of the
            two.

    Raises:
        ValueError: both lengths of the warm-up are given, or a value is out of range.
    """
    return WithPlateau(_Warmup(warmup_steps, warmup_fraction).factor, lambda progress: False)


@dataclass(frozen=True)
class WithPlateau:
    """A schedule with a plateau at the peak, for which it is known whether the decay has begun.

    A run can be extended to a larger budget from a checkpoint on the plateau; the result is that of
    a run with the larger budget from the start.
    """

    factor: Schedule
    is_decaying: Callable[[float], bool]
    """Whether the decay has begun at this share of the budget."""

    def __call__(self, step: int, progress: float) -> float:
        """Factor of the peak learning rate."""
        return self.factor(step, progress)


def is_decaying(schedule: Schedule, progress: float) -> bool | None:
    """Whether the decay has begun at `progress`; None for a schedule without a plateau."""
    return schedule.is_decaying(progress) if isinstance(schedule, WithPlateau) else None


def continue_from_plateau(schedule: Schedule) -> Schedule:
    """Change `schedule` to start on its plateau, for a run that continues from there.

    Without the change, a warm-up that is a share of the budget would begin again if the new budget
    is many times larger.
    """
    if not isinstance(schedule, WithPlateau):
        return schedule

    def factor(step: int, progress: float) -> float:
        return schedule(step, progress) if schedule.is_decaying(progress) else 1.0

    return WithPlateau(factor, schedule.is_decaying)


def rewarmed(schedule: Schedule, *, step: int, progress: float) -> Schedule:
    """Apply `schedule` again to the rest of a larger budget, to continue a run that has ended.

    The learning rate rises from its final value, with the warm-up that the schedule has for the
    rest of the budget, and then decays again.

    Args:
        schedule: the schedule of the run that ended.
        step: number of optimizer steps of that run.
        progress: share of the larger budget that these steps used.

    Raises:
        ValueError: nothing is left of the budget.

    Source: Ibrahim et al. 2024, arXiv:2403.08763, section 4 (re-warming and re-decaying).
    """
    if not 0.0 <= progress < 1.0:
        raise ValueError(f"progress={progress} must be below 1: nothing is left of the budget")
    low = schedule(step, 1.0)

    def rest(done: float) -> float:
        return (done - progress) / (1.0 - progress)

    def factor(now: int, done: float) -> float:
        return max(low, schedule(now - step, rest(done)))

    if isinstance(schedule, WithPlateau):
        return WithPlateau(factor, lambda done: schedule.is_decaying(rest(done)))
    return factor


class _Warmup:
    """A linear warm-up whose length is in steps or a share of the budget."""

    def __init__(self, steps: int | None, fraction: float | None) -> None:
        if steps is not None and fraction is not None:
            raise ValueError(
                f"warmup_steps={steps} and warmup_fraction={fraction} exclude each other; "
                "set one of them to null"
            )
        self.steps = steps or 0
        self.fraction = fraction or 0.0

    def factor(self, step: int, progress: float) -> float:
        if self.steps:
            return min(1.0, (step + 1) / self.steps)
        return min(1.0, progress / self.fraction) if self.fraction else 1.0

    def share_of_rest(self, step: int, progress: float) -> float:
        """Progress after the warm-up: 0 at its end, 1 at the end of the budget."""
        end = progress * self.steps / (step + 1) if self.steps else self.fraction
        if progress >= 1.0 or end >= 1.0:
            return 1.0
        return max(0.0, (progress - end) / (1.0 - end))
